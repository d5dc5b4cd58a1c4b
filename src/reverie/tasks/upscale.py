"""A picture enlarged, and its details drawn anew: by a model that was made to enlarge, or by any other at a low strength."""

from typing import Any

from PIL import Image

from reverie.encode import Damaged
from reverie.errors import UserError, number
from reverie.systems.system import System
from reverie.tasks.cascade import Enlarge
from reverie.tasks.edit import Edit
from reverie.tasks.generate import generate
from reverie.tasks.source import picture, unsized
from reverie.tasks.start import Task

MOST = 8
"""Times that a picture is enlarged."""


def enlarged(system: System, image: Any, factor: float, strength: float | None) -> tuple[Task, dict[str, int]]:
    """The task of enlarging a picture by `factor`, each side to the nearest multiple the model can draw, and that size.

    strength: 0.3 unless told otherwise; a model that learnt to enlarge hears none.
    """
    number("factor", factor)
    if not 1 <= factor <= MOST:
        raise UserError(f"factor is {factor}; a picture is enlarged 1 to {MOST} times")
    source = picture(image)
    if isinstance(shows := system.encoders.get("damaged"), Damaged) and shows.factor > 1:
        if factor != shows.factor:
            raise UserError(f"factor is {factor:g}; {system.name} learnt to enlarge {shows.factor} times")
        if strength is not None:
            raise UserError(f"{system.name} learnt to enlarge, and hears no strength: leave it out, or name another model")
        size = {"height": source.height * shows.factor, "width": source.width * shows.factor}
        return Enlarge((source,)), size
    width, height = (max(1, round(n * factor / system.step)) * system.step for n in source.size)
    large = source.resize((width, height), Image.Resampling.LANCZOS)
    return Edit(large, 0.3 if strength is None else strength), {"height": height, "width": width}


def upscale(
    system: System, image: Any, prompt: Any = "", factor: float = 2.0, strength: float | None = None, **settings: Any
) -> list[Image.Image]:
    """PIL images, `factor` times larger; see `Settings` for the keywords."""
    unsized(settings, "factor")
    task, size = enlarged(system, image, factor, strength)
    return generate(system, prompt, tasks=[task], **{**settings, **size})
