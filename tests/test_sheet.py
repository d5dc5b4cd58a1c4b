"""Sheets: where pictures and labels stand."""

import numpy as np
from PIL import Image

from reverie.data.sheet import LINE, _font, _lines, sheet

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
PICTURES = [Image.new("RGB", (8, 6), colour) for colour in (RED, GREEN, BLUE)]


def inked(picture, box):
    """Whether anything is written in a box of white ground."""
    return bool((np.asarray(picture.crop(box)) < 128).all(-1).any())


def test_pictures_stand_in_rows():
    out = sheet(PICTURES, 2, scale=3, gap=4)
    assert out.size == (2 * (24 + 4) + 4, 2 * (18 + 4) + 4)
    for colour, x, y in ((RED, 4, 4), (GREEN, 32, 4), (BLUE, 4, 26)):
        assert out.getpixel((x, y)) == out.getpixel((x + 23, y + 17)) == colour
        assert out.getpixel((x - 1, y)) == out.getpixel((x + 24, y)) == (255, 255, 255)


def test_smaller_pictures_stand_in_the_places_of_the_largest():
    out = sheet([PICTURES[0], Image.new("L", (20, 10), 9)], gap=1)
    assert out.size == (2 * 21 + 1, 12)
    assert out.getpixel((1, 1)) == RED and out.getpixel((22, 1)) == (9, 9, 9)


def test_labels_stand_beside_the_pictures_and_never_on_them():
    wide = [Image.new("RGB", (100, 30), colour) for colour in (RED, GREEN, BLUE, RED)]
    words = {"above": ["one two three four five six", "b"], "left": ["first", "second"], "below": list("wxyz")}
    out = sheet(wide, 2, title="the title", **words)
    bare = sheet(wide, 2)
    side, head = out.width - bare.width, out.height - bare.height - 2 * LINE
    assert head == 3 * LINE + 4 and side > 20  # the title, a gap, and two lines above
    for k in range(4):
        x, y = side + 4 + k % 2 * 104, head + 4 + k // 2 * (34 + LINE)
        assert (np.asarray(out.crop((x, y, x + 100, y + 30))) == np.asarray(wide[k])).all()
        assert inked(out, (x, y + 30, x + 100, y + 34 + LINE))
    for row in range(2):
        assert inked(out, (0, head + row * (34 + LINE), side, head + row * (34 + LINE) + 30))


def test_lines_are_never_wider_than_a_picture():
    for text in ("karras(smallest=0.02, largest=80)", "runs/one/model.safetensors", "w" * 90, "a man " * 40, ""):
        lines = _lines(text, 90)
        assert all(_font().getlength(line) <= 90 for line in lines) and len(lines) <= 4
        assert "".join(lines).replace(" ", "") == text.replace(" ", "") or lines[-1].endswith("...")
    assert _lines("dpmpp-2m\n sde", 500) == ["dpmpp-2m sde"]
    assert _lines("one two", 30) == ["one", "two"]
    assert _lines("karras(rho=7)", 50) == ["karras(", "rho=7)"]
