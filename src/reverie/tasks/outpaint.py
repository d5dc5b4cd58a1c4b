"""A picture on a larger canvas: what lies beyond its edges is drawn anew."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from reverie.errors import UserError, number
from reverie.systems.system import System
from reverie.tasks.edit import Edit
from reverie.tasks.generate import generate
from reverie.tasks.source import picture, unsized

MOST = 8192
"""Pixels that can be added at an edge."""


@dataclass(frozen=True)
class Margins:
    """Pixels to add at each edge of a picture."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            number(name, value, whole=True)
            if not 0 <= value <= MOST:
                raise UserError(f"{name} is {value}; an edge can be moved by 0 to {MOST} pixels")
        if not any(vars(self).values()):
            raise UserError("no edge is moved: give left, right, top or bottom in pixels")


def canvas(system: System, image: Any, margins: Margins) -> tuple[Image.Image, Image.Image, Mapping[str, int]]:
    """(canvas, mask, its height and width): the picture as it is, its edges drawn out, and white where it is to be drawn.

    Sides that the model cannot draw grow at the right and at the bottom until it can.
    """
    inner = picture(image)
    width, height = (
        -(-n // system.step) * system.step
        for n in (inner.width + margins.left + margins.right, inner.height + margins.top + margins.bottom)
    )
    left, top = margins.left, margins.top
    around = ((top, height - top - inner.height), (left, width - left - inner.width))
    array = np.pad(np.asarray(inner), (*around, (0, 0)), mode="edge")
    hole = np.pad(np.zeros((inner.height, inner.width), np.uint8), around, constant_values=255)
    return Image.fromarray(array), Image.fromarray(hole), {"height": height, "width": width}


def outpaint(system: System, image: Any, prompt: Any = "", resample: int = 0, **settings: Any) -> list[Image.Image]:
    """PIL images on a larger canvas: left, right, top, bottom in pixels, beside the keywords of `Settings`."""
    unsized(settings, "the picture and its new edges")
    edges = {name: settings.pop(name) for name in Margins.__dataclass_fields__ if name in settings}
    large, mask, size = canvas(system, image, Margins(**edges))
    return generate(system, prompt, tasks=[Edit(large, 1.0, mask, resample)], **{**settings, **size})
