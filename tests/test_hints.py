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


def test_a_palette_says_which_colours_and_roughly_where():
    made = palette(colours=3, side=4)(picture())
    height, width = made.shape[0] // 4, made.shape[1] // 4
    squares = made[::height, ::width]
    assert (made == squares.repeat(height, 0).repeat(width, 1)).all(), "one colour a square"
    assert {tuple(c) for c in squares.reshape(-1, 3)} <= {(255, 255, 255), (255, 0, 0), (0, 0, 255)}, "and no mixture"
    for (i, j), colour in np.ndenumerate(np.zeros(squares.shape[:2])):
        inside = picture()[i * height : (i + 1) * height, j * width : (j + 1) * width].reshape(-1, 3)
        found, count = np.unique(inside, axis=0, return_counts=True)
        assert count[(found == squares[i, j]).all(1)].max() == count.max() + colour, "the commonest there"
    whole = palette(colours=3, side=1)(picture())
    assert (whole == 255).all() and palette(side=1000)(picture()).shape == picture().shape


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
