"""What a model will need in memory, asked before it is loaded, and what can be done where memory ran out."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors
import torch

from reverie.errors import UserError
from reverie.systems.opening import Opening

SLACK = 1.15
"""What else is needed beside the weights, at the least."""
OFFLOADED = {"none": 1.0, "parts": 1.0, "blocks": 0.1}
"""The share of the weights that is present at once, of all or, where parts come and go, of the largest part."""


def check(groups: Iterable[list[Path]], opening: Opening, name: str) -> None:
    """UserError where the weights in these files, grouped by part, will not fit; what cannot be read is left to the reader."""
    sizes = [sum(map(entries, group)) * (4 if opening.inside is None else 2) for group in groups]
    present = sum(sizes) if opening.offload == "none" else max(sizes, default=0)
    need, free = SLACK * present * OFFLOADED[opening.offload], available(opening.place)
    if free is not None and need > free:
        knobs = [] if opening.inside is not None else ["--precision bfloat16"]
        knobs += {"none": ["--offload parts", "--offload blocks"], "parts": ["--offload blocks"], "blocks": []}[opening.offload]
        ways = f": try {' or '.join(knobs)}" if knobs else ": close other programs, or use a smaller model"
        raise UserError(f"{name} needs about {_gb(need)} of memory, and {_gb(free)} are free on {opening.place}{ways}")


def entries(path: Path) -> int:
    """Numbers in a safetensors file, by its header alone; 0 where it has none that can be read."""
    try:
        with safetensors.safe_open(path, "pt") as handle:
            names = handle.keys()
            return sum(math.prod(handle.get_slice(name).get_shape()) for name in names)
    except (safetensors.SafetensorError, OSError):
        return 0


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
