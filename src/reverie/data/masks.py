"""Which places of a picture are to be learnt: a mask beside it, of the same name elsewhere, or its own transparency.

A mask is a picture in grey: white is learnt, black is not, grey by its share. It has the shape of its picture, at any scale.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from reverie.data.folder import MASK, SUFFIXES
from reverie.data.picture_file import read_picture
from reverie.errors import UserError

ROUNDED = 0.01
"""Shapes that differ by less, or by one pixel, are one shape: sides are whole numbers of pixels."""


def beside(picture: Path) -> Path | None:
    """The file of the mask that lies beside a picture: NAME.mask.png of NAME.jpg."""
    return named(picture.parent, f"{picture.stem}{MASK}")


def named(folder: Path, stem: str) -> Path | None:
    """The picture of this name in a folder, whatever its ending."""
    return next((path for suffix in sorted(SUFFIXES) if (path := folder / f"{stem}{suffix}").is_file()), None)


def mask_of(path: Path, size: tuple[int, int], max_pixels: int) -> Image.Image:
    """The mask in a file, in grey and of `size` (width, height). Raises UserError where it is none, or of another shape."""
    mask = read_picture(path, max_pixels).convert("L")
    if abs(mask.width - mask.height * size[0] / size[1]) > max(1, ROUNDED * mask.width):
        raise UserError(
            f"{path}: a mask of {mask.width}x{mask.height} for a picture of {size[0]}x{size[1]}: make them of one shape"
        )
    return mask if mask.size == size else mask.resize(size, Image.Resampling.BOX)


def alpha_of(path: Path) -> Image.Image | None:
    """How opaque a picture is, upright; None where it has no transparency. The file can be read."""
    with Image.open(path) as image:
        if not image.has_transparency_data:
            return None
        return ImageOps.exif_transpose(image).convert("RGBA").getchannel("A")


def found(picture: Path, size: tuple[int, int], *, folder: Path | None, alpha: bool, max_pixels: int) -> Image.Image | None:
    """The mask of a picture of `size` (width, height): of its name in `folder`, beside it, or its own transparency, if asked for.

    Where there are several, only what all of them leave is learnt. Raises UserError where one cannot be used, or none is in the
    folder that is said to hold them.
    """
    masks = []
    if folder is not None:
        if (path := named(folder, picture.stem)) is None:
            raise UserError(f"{picture}: there is no mask {picture.stem}.png in {folder}")
        masks.append(mask_of(path, size, max_pixels))
    if (path := beside(picture)) is not None:
        masks.append(mask_of(path, size, max_pixels))
    if alpha and (own := alpha_of(picture)) is not None:
        masks.append(own)
    if not masks:
        return None
    return Image.fromarray(np.minimum.reduce([np.asarray(mask) for mask in masks]))
