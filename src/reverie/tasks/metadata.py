"""What a picture says of its making: PNG text that A1111's readers understand, and a JSON chunk with everything.

`parameters` is A1111's infotext (prompt, negative prompt, then `Steps: 20, Sampler: ...`); `reverie` is exact JSON. Both are
untrusted when read: sizes are bounded, and only known settings are taken.
"""

import json
import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from reverie.errors import UserError
from reverie.files import write_whole
from reverie.systems.system import System
from reverie.tasks.generate import Picture, Settings

LIMIT = 1_000_000  # characters of text read from a picture
A1111_NAMES = {
    "ddpm": "DDPM",
    "ddim": "DDIM",
    "euler": "Euler",
    "heun": "Heun",
    "dpmpp-2m": "DPM++ 2M",
    "dpmpp-3m": "DPM++ 3M",
    "dpmpp-2m-sde": "DPM++ 2M SDE",
    "dpmpp-3m-sde": "DPM++ 3M SDE",
}
PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if set(text) & set(',:\n"') else text


def infotext(picture: Picture, system: System) -> str:
    """A1111's `parameters`."""
    s = picture.settings
    width, height = picture.image.size
    pairs: dict[str, Any] = {
        "Steps": s.steps,
        "Sampler": A1111_NAMES.get(str(s.solver), s.solver),
        "Schedule type": str(s.grid).partition("(")[0].capitalize(),
        "CFG scale": s.guidance,
        "Seed": picture.seed,
        "Size": f"{width}x{height}",
        "Model hash": str(system.about.get("hash", ""))[:10],
        "Model": system.name,
        "RNG": "CPU",
        "Version": "reverie",
    }
    lines = [str(picture.prompt)] + ([f"Negative prompt: {s.negative}"] if s.negative else [])
    return "\n".join([*lines, ", ".join(f"{k}: {_quoted(v)}" for k, v in pairs.items())])


def record(picture: Picture, system: System) -> dict[str, Any]:
    """Everything needed to make the picture again."""
    settings = asdict(picture.settings) | {"prompt": picture.prompt}
    model = {"name": system.name, "hash": system.about.get("hash", "")}
    return {"reverie": 1, "model": model, "settings": settings, "nfe": picture.nfe}


def save(picture: Picture, system: System, path: Path) -> None:
    """Writes a PNG that carries both."""
    text = PngImagePlugin.PngInfo()
    text.add_itxt("parameters", infotext(picture, system))
    text.add_itxt("reverie", json.dumps(record(picture, system)))
    write_whole(path, lambda part: picture.image.save(part, "PNG", pnginfo=text))


def _text(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path} is not there: check the path")
    try:
        with Image.open(path) as image:
            image.load()
            return dict(getattr(image, "text", image.info))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as a picture ({error}); give a PNG that reverie or A1111 wrote") from None


def read(path: Path) -> tuple[Settings, str]:
    """(settings, model name) of a picture: from our JSON, or from A1111's text; else UserError."""
    text = _text(path)
    for name in ("reverie", "parameters"):
        said = str(text.get(name, ""))[:LIMIT]
        if said:
            return _ours(said, path) if name == "reverie" else _theirs(said, path)
    raise UserError(f"{path} carries no settings: it was not written by reverie or A1111, or they were stripped")


def _ours(said: str, path: Path) -> tuple[Settings, str]:
    try:
        found = json.loads(said)
        known = {f.name for f in fields(Settings)}
        settings = {k: v for k, v in found["settings"].items() if k in known}
        return Settings(**settings | {"prompt": (settings["prompt"],)}), str(found["model"]["name"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: its reverie settings are damaged ({error}); type them again") from None


def _theirs(said: str, path: Path) -> tuple[Settings, str]:
    *body, last = said.strip().split("\n")
    pairs = {k: json.loads(v) if v.startswith('"') else v.strip() for k, v in PAIR.findall(last)}
    if len(pairs) < 3:
        raise UserError(f"{path}: its parameters have no settings line; type the prompt instead")
    words = "\n".join(body)
    prompt, _, negative = words.partition("Negative prompt:")
    solvers = {v: k for k, v in A1111_NAMES.items()}
    try:
        return Settings(
            prompt=(prompt.strip(),),
            negative=negative.strip(),
            seed=int(pairs.get("Seed", 0)),
            steps=int(pairs["Steps"]) if "Steps" in pairs else None,
            guidance=float(pairs["CFG scale"]) if "CFG scale" in pairs else None,
            solver=solvers.get(pairs.get("Sampler", ""), pairs.get("Sampler")),
        ), str(pairs.get("Model", ""))
    except ValueError as error:
        raise UserError(f"{path}: its parameters cannot be read ({error}); type them again") from None
