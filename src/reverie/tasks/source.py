"""Pictures that are changed: how large they are taken, and as what numbers.

A picture is taken as large as it is where the model can draw that size, and it is no more than four times larger or smaller in area
than the model's own; else it is scaled, its shape kept, to the model's area and to sides the model can draw. A size that is asked
for wins: the picture is scaled to cover it, and its middle is taken.
"""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from reverie.data.picture_file import in_colours, read_picture
from reverie.errors import UserError, number
from reverie.systems.system import System
from reverie.train.jobs import to_signal

FACTOR = 4
"""In area, by which a picture may differ from the model's own and is still taken as it is."""


def picture(image: Any) -> Image.Image:
    """RGB, from a path, a PIL picture, or an array (H, W) or (H, W, C) of uint8."""
    if isinstance(image, (str, Path)):
        return read_picture(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or not image.size or (image.ndim == 3 and image.shape[2] > 4):
            raise UserError(f"an array of shape {image.shape} and type {image.dtype} is no picture: give (H, W, C) of uint8")
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise UserError(f"a picture is a {type(image).__name__}: give a path, a PIL picture, or an array of uint8")
    if 0 in image.size:
        raise UserError(f"a picture of {image.width}x{image.height} has no pixels: give another")
    return in_colours(ImageOps.exif_transpose(image))


def size_for(system: System, image: Image.Image, settings: Mapping[str, Any]) -> dict[str, int]:
    """Height and width to draw a picture at: what the settings ask for, or by the rule above."""
    own = {"height": image.height, "width": image.width}
    asked = {k: v for k in own if (v := settings.get(k)) is not None}
    for name, value in asked.items():
        number(name, value, whole=True)
    if asked:
        return dict(zip(own, system.defaults.size, strict=True)) | asked
    area, step = math.prod(system.defaults.size), system.step
    scale = math.sqrt(area / (image.height * image.width))
    if 1 / FACTOR <= scale**2 <= FACTOR and not any(n % step for n in own.values()) and not 0 < system.largest < max(image.size):
        return own
    most = system.largest or max(round(n * scale) + step for n in own.values())
    return {k: min(max(round(n * scale / step), 1) * step, most) for k, n in own.items()}


def unsized(settings: Mapping[str, Any], source: str) -> None:
    """UserError where a size is asked for that follows from something else."""
    if any(settings.get(side) is not None for side in ("height", "width")):
        raise UserError(f"the size follows from {source}: leave out height and width")


def fitted(image: Image.Image, size: tuple[int, int], channels: int, resample: int = Image.Resampling.LANCZOS) -> Tensor:
    """(1, C, H, W) in [-1, 1]: scaled to cover (H, W), and its middle."""
    if channels not in (1, 3):
        raise UserError("this model draws points, which no picture can be turned into")
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != size[::-1]:
        image = ImageOps.fit(image, size[::-1], Image.Resampling(resample))
    array = np.array(image)
    return to_signal((array[None] if channels == 1 else array.transpose(2, 0, 1))[None])


def mask_for(mask: Any, image: Image.Image, size: tuple[int, int]) -> Tensor:
    """(1, 1, H, W) in [0, 1], fitted as its picture is: white is changed, black is kept, grey is changed by that much."""
    found = picture(mask).convert("L")
    if found.size != image.size:
        raise UserError(
            f"the mask is {found.width}x{found.height}, the picture {image.width}x{image.height}: give a mask of the picture's size"
        )
    share = (fitted(found, size, 1, Image.Resampling.NEAREST) + 1) / 2
    if not bool(share.any()):
        raise UserError("the mask is black everywhere, so nothing would change: paint white what is to be drawn anew")
    return share


def encoded(system: System, pixels: Tensor) -> Tensor:
    """Points of the diffusion's space, (1, C, h, w)."""
    with torch.no_grad():
        return system.codec.encode(pixels.to(getattr(system.denoiser, "place", pixels.device))).float().cpu()


def card_of_picture(image: Image.Image, given: Any) -> dict[str, Any]:
    """What is remembered of a picture: its name where it has one, and the SHA-256 of its pixels."""
    name = Path(given).name if isinstance(given, (str, Path)) else ""
    return {"file": name, "sha256": hashlib.sha256(np.asarray(image).tobytes()).hexdigest()}
