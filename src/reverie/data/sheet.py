"""Sheets: many pictures on one, in rows, with words around them. Every sheet and grid of pictures is laid out here."""

import functools
import math
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

SIZE, LINE = 12, 15  # of the letters and of a line, in pixels


def sheet(
    images: Sequence[Image.Image],
    columns: int = 0,
    *,
    scale: int = 1,
    gap: int = 4,
    ground: Any = "white",
    title: str = "",
    above: Sequence[str] = (),
    left: Sequence[str] = (),
    below: Sequence[str] = (),
) -> Image.Image:
    """One RGB picture of many, row by row, each `scale` times its size, in places as large as the largest of them.

    title: over everything. above: one label per column. left: one per row. below: one per picture. A label is broken into lines
    where it is wider than a picture, and cut after the fourth; its letters are those of Pillow's own font, which are Latin.
    """
    columns = columns or max(1, math.ceil(math.sqrt(len(images))))
    rows = math.ceil(len(images) / columns)
    width, height = (scale * max((image.size[k] for image in images), default=0) for k in (0, 1))
    over, beside, under = ([_lines(text, width) for text in texts] for texts in (above, left, below))
    margin = math.ceil(max((_font().getlength(line) for lines in beside for line in lines), default=-gap)) + gap
    across, down = width + gap, height + gap + _tall(under)
    heading = _lines(title, margin + columns * across - gap, most=20)
    head = LINE * len(heading) + (gap if heading and over else 0) + _tall(over)
    out = Image.new("RGB", (margin + columns * across + gap, head + rows * down + gap), ground)
    pen = ImageDraw.Draw(out)
    _write(pen, gap, gap, heading)
    for k, lines in enumerate(over):
        _write(pen, margin + gap + k * across, gap + head - LINE * len(lines), lines)
    for k, lines in enumerate(beside):
        _write(pen, gap, head + gap + k * down, lines)
    for k, image in enumerate(images):
        x, y = margin + gap + k % columns * across, head + gap + k // columns * down
        out.paste(image.convert("RGB").resize((scale * image.width, scale * image.height), Image.Resampling.NEAREST), (x, y))
        if under:
            _write(pen, x, y + height, under[k])
    return out


@functools.cache
def _font() -> Any:
    return ImageFont.load_default(SIZE)


def _tall(labels: Sequence[Sequence[str]]) -> int:
    """The height that the longest of some labels needs."""
    return LINE * max(map(len, labels), default=0)


def _write(pen: ImageDraw.ImageDraw, x: int, y: int, lines: Sequence[str]) -> None:
    for k, line in enumerate(lines):
        pen.text((x, y + k * LINE), line, fill="black", font=_font())


def _lines(text: str, width: float, most: int = 4) -> list[str]:
    """A label in lines no wider than `width`, broken at a space or after a sign if it can be; what is too long ends in dots."""
    out: list[str] = []
    rest = " ".join(text.split())
    while rest and len(out) < most:
        n = _fitting(rest, width)
        if n < len(rest) and rest[n] != " ":
            n = max(rest.rfind(sign, 0, n) + 1 for sign in " ,-/(") or n
        out.append(rest[:n].strip())
        rest = rest[n:].strip()
    if rest:
        out[-1] = out[-1][: _fitting(out[-1], width - _font().getlength("..."))] + "..."
    return out


def _fitting(text: str, width: float) -> int:
    """How many letters, and at least one, have room."""
    n = 1
    while n < len(text) and _font().getlength(text[: n + 1]) <= width:
        n += 1
    return n
