"""What a model will need in memory, asked before it is loaded, and what can be done where memory ran out.

A model is counted by the headers of its files, part by part, in the types that `placed` holds them in; of a pickle nothing is known
but how large it is. Drawing takes some numbers for each pixel beside: see DECODER.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch

from reverie.errors import UserError
from reverie.systems import pickles
from reverie.systems.folders import Folder, is_folder
from reverie.systems.opening import Opening
from reverie.systems.placing import LARGE
from reverie.systems.system import System

SLACK = 1.15
"""What else is needed beside the weights, at the least."""
DECODER, NET = 1500, 4000
"""Numbers held for each pixel while a picture is decoded, and for each place of the net while it is drawn.

Measured at 128 to 256 pixels: decoders VQ 1000, DC-AE 1000, KL 1400 to 1600; nets DDPM 3400, improved DDPM 4000.
"""
OFFLOADED = {"none": 1.0, "parts": 1.0, "blocks": 0.1}
"""The share of the weights that is present at once, of all or, where parts come and go, of the largest part."""
WORDS, CODEC = "text_encoder", "vae"
OWN = ("unet", "transformer", CODEC, "vqvae", WORDS)
"""How the parts of a folder begin that are loaded; others, such as a safety checker, are not."""
IN_FILE = (
    (WORDS, re.compile(r"cond_stage_model\.|conditioner\.embedders\.\d+\.|text_encoders\.[^.]+\.|encoders\.[^.]+\.")),
    (CODEC, re.compile(r"first_stage_model\.|vae\.|codec\.")),
    ("", re.compile(r"model_ema\.")),
)
"""How the names of a single file begin that belong to such a part; the averages of the net take no room of their own."""


def width(count: int, inside: torch.dtype | None, hears: bool) -> int:
    """Bytes of one of so many numbers of a part, where nets compute in this type; hears: it is an encoder."""
    return 4 if inside is None or (hears and count < LARGE) else 2


def check(parts: Mapping[str, int], opening: Opening, name: str, drawn: int = 0) -> None:
    """UserError where these parts, by the numbers that each has, will not fit. drawn: numbers that a picture takes."""
    inside = opening.inside
    sizes = [count * width(count, inside, part.startswith(WORDS)) for part, count in parts.items()]
    present = sum(sizes) if opening.offload == "none" else max(sizes, default=0)
    need = SLACK * present * OFFLOADED[opening.offload] + drawn * width(drawn, inside, hears=False)
    free = available(opening.place)
    if free is not None and need > free:
        knobs = [] if inside is not None else ["--precision bfloat16"]
        knobs += {"none": ["--offload parts", "--offload blocks"], "parts": ["--offload blocks"], "blocks": []}[opening.offload]
        ways = f": try {' or '.join(knobs)}" if knobs else ": close other programs, or use a smaller model"
        raise UserError(f"{name} needs about {_gb(need)} of memory, and {_gb(free)} are free on {opening.place}{ways}")


def drawing(system: System, tile: int = 0) -> int:
    """Numbers that are held while a picture of the usual size is drawn, and decoded in tiles."""
    pixels = math.prod(system.defaults.size)
    return max(DECODER * min(pixels, tile**2 or pixels), NET * pixels // system.codec.factor**2)


def counted(path: Path, opening: Opening) -> dict[str, int]:
    """The numbers in each part of a model that will be loaded, with those that a single file takes from a folder beside it."""
    if is_folder(path):
        return _of_folder(Folder(path, opening))
    own = _of_file(path)
    if not opening.parts:
        return own
    near = _of_folder(Folder(Path(opening.parts), opening))
    kinds = {kind for kind in (WORDS, CODEC) if any(part.startswith(kind) for part in own)}
    # of Stable Diffusion 3 the third encoder, T5, is read even where the file has the others
    return own | {
        k: n for k, n in near.items() if k.startswith((WORDS, CODEC)) and (k.endswith("_3") or k.rstrip("_23") not in kinds)
    }


def _of_folder(folder: Folder) -> dict[str, int]:
    found = [part for part in folder.index if part.startswith(OWN) and folder.has(part) and os.path.isdir(folder.path / part)]
    return {part: sum(sum(_entries(file).values()) for file in folder.files(part)) for part in found}


def _of_file(path: Path) -> dict[str, int]:
    parts: Counter[str] = Counter()
    for name, count in _entries(path).items():
        kind, begin = next(((kind, m[0]) for kind, pattern in IN_FILE if (m := pattern.match(name))), ("net", ""))
        if kind:
            parts[f"{kind} {begin}".strip(" .")] += count
    return dict(parts)


def _entries(path: Path) -> dict[str, int]:
    """Numbers of each tensor in a safetensors file, by its header alone; what cannot be read is left to the reader.

    Of a pickle, a quarter of its bytes, as if all of it were float32: it is not looked into.
    """
    try:
        if pickles.is_pickle(path):
            return {"": path.stat().st_size // 4}
        with safetensors.safe_open(path, "pt") as handle:
            names = handle.keys()
            return {name: math.prod(handle.get_slice(name).get_shape()) for name in names}
    except (safetensors.SafetensorError, OSError):
        return {}


def available(place: torch.device) -> int | None:
    """Bytes free on a device; None where that cannot be known."""
    if place.type == "cuda":
        return int(torch.cuda.mem_get_info(place)[0])
    try:
        said = Path("/proc/meminfo").read_text(encoding="ascii")
        return 1024 * int(said.split("MemAvailable:")[1].split()[0])
    except (OSError, IndexError, ValueError):
        return None


def ran_out(error: BaseException, settings: Any) -> UserError | None:
    """What to say where memory ran out; None for any other error."""
    said = str(error).casefold()
    if not (isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in said or "out of memory" in said):
        return None
    height, width = settings.size
    less = [] if settings.batch == 1 else [f"--batch {max(min(settings.batch, len(settings.prompts())) // 2, 1)}"]
    knobs = ", ".join([*less, "--tile 512", "--offload blocks", "a smaller --height and --width"])
    return UserError(f"memory ran out while drawing {width}x{height}: try {knobs}")


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
