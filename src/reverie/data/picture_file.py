"""One picture from a file, as it is meant to be seen: upright, in colours, what is transparent on white."""

import os
import warnings
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from reverie.errors import UserError

MAX_PIXELS = 50_000_000


def read_picture(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """RGB. Raises UserError, naming the file, where it cannot be used."""
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder: name one picture in it")
    if not os.path.exists(path):
        raise UserError(f"{path} is not there: check the path")
    return decoded(path, str(path), max_pixels)


def decoded(file: str | Path | IO[bytes], named: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """RGB of an open file as well. named: what errors call it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata, and of bombs smaller than our limit
            with Image.open(file) as image:
                check_size(image, named, max_pixels)
                return in_colours(ImageOps.exif_transpose(image))
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise UserError(f"{named}: far more than {max_pixels} pixels") from None
    except Exception as error:  # a decoder may raise anything on garbage
        raise UserError(f"{named}: cannot be decoded ({type(error).__name__})") from None


def check_size(image: Image.Image, named: str, max_pixels: int = MAX_PIXELS) -> None:
    """UserError where a picture, of which only the header was read, has too many pixels to be decoded."""
    if image.width * image.height > max_pixels:
        raise UserError(f"{named}: {image.width}x{image.height} is over the limit of {max_pixels} pixels")


def in_colours(image: Image.Image) -> Image.Image:
    """RGB of a picture of any mode."""
    if image.mode.startswith(("I", "F")):  # 16 and 32 bits a sample
        levels = np.asarray(image, np.float64)
        top = 65535.0 if image.mode != "F" and levels.max(initial=0) > 255 else 255.0 if levels.max(initial=0) > 1 else 1.0
        levels = np.nan_to_num(levels / top)
        return Image.fromarray((np.clip(levels, 0, 1) * 255).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
