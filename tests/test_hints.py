"""What controls are shown of pictures."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw

from reverie.card import parse, rebuild
from reverie.data.hints import HINTS, edges, low, palette, regions, shading, sketch
from reverie.errors import UserError


def picture():
    """A red disc on white, with a blue bar under it."""
    image = Image.new("RGB", (48, 32), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((12, 2, 34, 24), fill="red")
    draw.rectangle((4, 26, 43, 29), fill="blue")
    return np.asarray(image)


@pytest.mark.parametrize("make", HINTS, ids=lambda m: m.__name__)
def test_a_hint_is_a_picture_of_the_same_size_and_the_same_each_time(make):
    hint = make()(picture())
    assert hint.shape == (32, 48, 3) and hint.dtype == np.uint8 and hint.std() > 5
    assert (make()(picture()) == hint).all()
    assert make().card["name"] == make.__name__
    for flat in (np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)):
        assert make()(flat).shape == (16, 16, 3), "nothing to see is no error"


def test_edges_lie_on_the_outline():
    found = edges()(picture())[..., 0] > 0
    yy, xx = np.mgrid[:32, :48]
    away = abs(np.hypot(xx - 23, yy - 13) - 11)
    on = found & (yy < 25)
    assert on.sum() > 40 and (away[on] < 2.5).all()
    assert (sketch()(picture())[..., 0] < 128)[on].mean() > 0.9, "a sketch is dark where edges are"


def test_shading_is_lightest_in_the_middle():
    made = shading()(picture())[..., 0].astype(int)
    assert made[13, 23] == 255 and made[0, 0] == 0 and made[13, 23] > made[13, 30] > made[13, 33]


def test_regions_and_squares_have_the_colours_of_the_picture():
    made = regions()(picture())
    assert abs(made[13, 23].astype(int) - [255, 0, 0]).max() < 30 and abs(made[1, 1].astype(int) - 255).max() < 30
    squares = low(side=4)(picture())
    assert len(np.unique(squares.reshape(-1, 3), axis=0)) <= 16 and (squares[0:8, 0:12] == squares[0, 0]).all()


def test_a_palette_says_which_colours_and_not_where():
    made = palette(colours=3, repeat=2)(picture())
    assert (made == made[:1]).all(), "stripes"
    width = made.shape[1] // 6
    for k, colour in enumerate([[255, 255, 255], [255, 0, 0], [0, 0, 255]] * 2):  # the commonest comes first
        assert (made[0, k * width : (k + 1) * width] == colour).all()
    assert (palette(colours=6, repeat=1)(picture())[0, -3 * width :] == [0, 0, 255]).all(), "of fewer the last is wider"
    moved = np.roll(picture(), 5, 1)
    assert (palette(colours=3, repeat=2)(moved) == made).all()


@pytest.mark.parametrize(
    "name", ["edges(sigma=-1)", "edges(low=0.5, high=0.2)", "regions(count=1)", "low(side=0)", "palette(colours=0)", "egdes()"]
)
def test_impossible_hints_are_named(name):
    with pytest.raises(UserError):
        rebuild(parse(name), HINTS, "hint")


def test_without_scikit_image_the_extra_is_named():
    code = (
        "import sys, numpy as np; sys.modules['skimage'] = None\n"
        "from reverie.data.hints import edges\n"
        "try: edges()(np.zeros((8, 8, 3), np.uint8))\n"
        "except Exception as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'reverie[control]'" in said
