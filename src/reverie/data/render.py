"""SVG text to pixels."""

import io
import tempfile
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image, ImageFont

from reverie.errors import UserError


def on_white(image: Image.Image, size: int) -> np.ndarray:
    """(3, size, size) uint8: the picture scaled to fit, centred on white (what is not square is padded)."""
    image = image.convert("RGBA")
    if max(image.size) != size:
        scale = size / max(image.size)
        shape = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(shape, Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (size, size), "white")
    canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2), image)
    return np.asarray(canvas).transpose(2, 0, 1)


def render(svgs: Iterable[str], size: int) -> np.ndarray:
    """SVG documents to (N, 3, size, size) uint8 on white.

    Raises UserError where the renderer is not installed or cannot read a document.
    """
    try:
        import resvg_py
    except ImportError:
        raise UserError("drawing SVG needs resvg-py, which is not installed: pip install 'reverie[data]'.") from None
    pictures = []
    for k, svg in enumerate(svgs):
        try:
            png = _drawn(resvg_py.svg_to_bytes, svg, size)
        except ValueError as error:
            raise UserError(f"drawing {k} is not an SVG that can be rendered ({error}): leave it out.") from None
        pictures.append(on_white(Image.open(io.BytesIO(png)), size))
    return np.stack(pictures) if pictures else np.zeros((0, 3, size, size), np.uint8)


def _drawn(draw: Any, svg: str, size: int) -> bytes:
    """A PNG. Letters are those of the font that Pillow brings: the same on every machine, whatever fonts it has."""
    if "<text" not in svg:
        return bytes(draw(svg_string=svg, width=size, skip_system_fonts=True))
    font: Any = ImageFont.load_default(12)
    with tempfile.NamedTemporaryFile(suffix=".ttf") as file:
        file.write(font.font_bytes)
        file.flush()
        family = dict.fromkeys(("font_family", "sans_serif_family"), font.getname()[0])
        return bytes(draw(svg_string=svg, width=size, skip_system_fonts=True, font_files=[file.name], **family))
