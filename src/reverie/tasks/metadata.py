"""What a picture says of its making: PNG text that A1111's readers understand, and a JSON chunk with everything.

`parameters` is A1111's infotext (prompt, negative prompt, then `Steps: 20, Sampler: ...`); `reverie` is exact JSON. Both are
untrusted when read: sizes are bounded, and only known settings are taken.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from reverie.errors import UserError
from reverie.files import write_whole
from reverie.solve import called
from reverie.solve.names import grid_called, grid_of
from reverie.systems.system import System
from reverie.tasks import comfy
from reverie.tasks.generate import Picture
from reverie.tasks.settings import Settings, meant

COMPARISON = "reverie-compare"  # the text of a picture that holds many, of several settings
PUT_IN = ("loras", "embeddings")
"""What was put into a model when it was opened."""
LIMIT = 1_000_000  # characters of text read from a picture
PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


@dataclass(frozen=True)
class Made:
    """What a picture tells. model: its name, or the file as it was given. hash: of its weights, or the first ten digits.

    refiner: the model that drew the end of the way, likewise; "" for none. tasks: what was done besides drawing from words.
    loras: changes of the model's weights, as they were given; embeddings: files of learnt words.
    """

    settings: Settings
    model: str
    hash: str = ""
    refiner: str = ""
    tasks: tuple[Mapping[str, Any], ...] = ()
    loras: tuple[str, ...] = ()
    embeddings: tuple[str, ...] = ()

    def fits(self, system: System) -> bool:
        """Whether these are the weights that made it, as far as is known."""
        return system.hash.startswith(self.hash)


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if set(text) & set(',:\n"') else text


def infotext(picture: Picture, system: System) -> str:
    """A1111's `parameters`."""
    s = picture.settings
    width, height = picture.image.size
    solver, schedule = str(s.solver), grid_called(str(s.grid), "a1111")
    pairs: dict[str, Any] = {
        "Steps": s.steps,
        "Sampler": called(solver, "a1111") or solver,
        "Schedule type": schedule,
        "CFG scale": s.guidance,
        "Seed": picture.seed,
        "Size": f"{width}x{height}",
        "Model hash": system.hash[:10],
        "Model": system.name,
        "RNG": "CPU",
        "Version": "reverie",
    }
    if system.refiner is not None:
        pairs |= {"Refiner": system.refiner.name, "Refiner switch at": s.handover}
    if (strength := next((task["strength"] for task in picture.tasks if "strength" in task), None)) is not None:
        pairs["Denoising strength"] = strength
    if grid_of(schedule, "a1111") != s.grid:
        pairs["Grid"] = s.grid  # what its arguments are; other readers pass over a name they do not know
    named = "".join(f" <lora:{each['name']}:{each['weight']:g}>" for each in system.about.get("loras", ()))
    lines = [f"{picture.prompt}{named}"] + ([f"Negative prompt: {s.negative}"] if s.negative else [])
    return "\n".join([*lines, ", ".join(f"{k}: {_quoted(v)}" for k, v in pairs.items())])


def record(picture: Picture, system: System, model: str = "") -> dict[str, Any]:
    """Everything needed to make the picture again. model: where the system was opened from, as it was given."""
    settings = asdict(picture.settings) | {"prompt": picture.settings.prompt[0]}
    made = {"reverie": 1, "model": source(system, model), "settings": settings, "nfe": picture.nfe}
    return made | ({"tasks": list(picture.tasks)} if picture.tasks else {})


def source(system: System, model: str = "") -> dict[str, Any]:
    """Which model it was; model as in `record`."""
    made = {"name": system.name, "given": model or system.name, "hash": system.hash}
    made |= {what: system.about[what] for what in PUT_IN if system.about.get(what)}
    return made if system.refiner is None else made | {"refiner": system.refiner.about.get("given", system.refiner.name)}


def save(picture: Picture, system: System, path: Path, model: str = "") -> None:
    """Writes a PNG that carries both; model as in `record`."""
    write(picture.image, path, {"parameters": infotext(picture, system), "reverie": json.dumps(record(picture, system, model))})


def write(image: Image.Image, path: Path, texts: Mapping[str, str]) -> None:
    """Writes a PNG with these texts, by name."""
    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_itxt(name, text)
    write_whole(path, lambda part: image.save(part, "PNG", pnginfo=info))


def _text(path: Path) -> dict[str, Any]:
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder: name one picture in it")
    if not os.path.isfile(path):  # Path.is_file raises where the name is longer than the disk allows
        raise UserError(f"{path} is not there: check the path")
    try:
        with Image.open(path) as image:
            image.load()
            return dict(getattr(image, "text", image.info))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as a picture ({error}); give a PNG that reverie or A1111 wrote") from None


def read(path: Path) -> Made:
    """What a picture tells, from our JSON or from A1111's text; else UserError. Whatever it says is checked, not believed."""
    text = _text(path)
    for name, reader in (("reverie", _ours), ("parameters", _theirs), ("prompt", _graph)):
        if said := str(text.get(name, ""))[:LIMIT]:
            made = reader(said, path)
            try:
                made.settings.check()
            except UserError as error:
                raise UserError(f"{path}: {error}; its settings are damaged, type them again") from None
            return made
    if COMPARISON in text:
        raise UserError(f"{path} is a comparison of several settings: type those of the one you want")
    raise UserError(
        f"{path} carries no settings: give a PNG as reverie or A1111 wrote it (editing and sending strip them), or type them"
    )


def _ours(said: str, path: Path) -> Made:
    try:
        found = json.loads(said)
        known = {f.name for f in fields(Settings)}
        settings = {k: v for k, v in found["settings"].items() if k in known}
        model = found["model"]
        made = Settings(**settings | {"prompt": (settings["prompt"],), "guide": tuple(settings.get("guide", ()))})
        tasks = tuple(task for task in found.get("tasks", ()) if isinstance(task, Mapping))
        named = str(model.get("given") or model["name"]), str(model.get("hash", "")), str(model.get("refiner", ""))
        put_in = (tuple(dict.fromkeys(str(each["given"]) for each in model.get(what, ()))) for what in PUT_IN)
        return Made(made, *named, tasks, *put_in)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: its reverie settings are damaged ({error}); type them again") from None


def _theirs(said: str, path: Path) -> Made:
    *body, last = said.strip().split("\n")
    pairs = {k: _plain(k, v, path) for k, v in PAIR.findall(last)}
    if len(pairs) < 3:
        raise UserError(f"{path}: its parameters have no settings line; type the prompt instead")
    words = "\n".join(body)
    prompt, _, negative = words.partition("Negative prompt:")
    solver, grid = _sampler(pairs.get("Sampler"))

    def number(name: str, kind: type[int] | type[float]) -> Any:
        try:
            return kind(pairs[name]) if name in pairs else None
        except ValueError:
            raise UserError(f"{path}: {name} is {pairs[name][:60]!r} in its parameters, which is no such number") from None

    width, height = _size(pairs.get("Size", ""), path)
    settings = Settings(
        prompt=(prompt.strip(),),
        width=width,
        height=height,
        negative=negative.strip(),
        seed=number("Seed", int) or 0,
        steps=number("Steps", int),
        guidance=number("CFG scale", float),
        solver=solver,
        grid=pairs.get("Grid") or grid_of(pairs.get("Schedule type", ""), "a1111") or grid,
    )
    return Made(settings, pairs.get("Model", ""), pairs.get("Model hash", ""))


def _graph(said: str, path: Path) -> Made:
    """That of ComfyUI."""
    try:
        found = comfy.told(said)
        settings = found["settings"]
        made = Settings(**settings | {"prompt": (settings["prompt"],)})
        return Made(made, Path(found["model"]).stem, loras=found["loras"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: the graph of ComfyUI in it cannot be read ({error}); type its settings") from None


def _size(said: str, path: Path) -> tuple[int | None, int | None]:
    """(width, height) of "512x768"; none where nothing is said."""
    if not said:
        return None, None
    if not (found := re.fullmatch(r"(\d{1,6})x(\d{1,6})", said)):
        raise UserError(f"{path}: Size is {said[:60]!r} in its parameters; it is written as 512x768")
    return int(found[1]), int(found[2])


def _sampler(name: str | None) -> tuple[str | None, str | None]:
    """Our name of a sampler, and the grid that the name implies; an unknown one is left as it is, to be named when it is used."""
    try:
        return meant(name or "")
    except UserError:
        return name, None


def _plain(name: str, value: str, path: Path) -> str:
    """The text of a pair, without its quotes."""
    try:
        return str(json.loads(value)) if value.startswith('"') else value.strip()
    except ValueError:
        raise UserError(
            f"{path}: {name} is {value[:60]} in its parameters, which cannot be read; type its settings again"
        ) from None
