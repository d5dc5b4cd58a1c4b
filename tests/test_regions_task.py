"""A prompt for each part of a picture, as a task and from the command line."""

import numpy as np
import pytest
from PIL import Image
from small import small_system
from test_generate import command, pixels

from reverie.errors import UserError
from reverie.systems import save
from reverie.tasks import generate
from reverie.tasks.regions import Region, Regions, parted

SYSTEM = small_system()


def left(size=(16, 16), grey=255):
    made = Image.new("L", size, 0)
    made.paste(grey, (0, 0, size[0] // 2, size[1]))
    return made


def drawn(prompt, *tasks, **settings):
    return pixels(generate(SYSTEM, prompt, tasks=tasks, **{"seed": 3, "steps": 3, "count": 2} | settings))


@pytest.mark.parametrize("by", ["estimates", "attention"])
def test_a_region_is_told_its_own_words(by):
    white = Image.new("L", (16, 16), 255)
    plain = drawn("a man", negative="red")
    same = drawn("a man", Regions((Region(white, "a man"),), by, 0.0), negative="red")
    assert abs(same - plain).max() <= 1, "one region over all, with the same words"
    whole = drawn("a man", Regions((Region(white, "bald red hair"),), "estimates", 0.0))
    assert abs(whole - drawn("bald red hair")).max() <= 1
    half = drawn("a man", Regions((Region(left(), "bald red hair"),), by, 0.0))
    assert abs(half - drawn("a man")).max() > 2
    assert (drawn("a man", Regions((Region(left((64, 64)), "bald red hair"),), by, 0.0)) == half).all(), "masks are fitted"
    strict = [drawn("a man", Regions((Region(left(), "red hair"),), by), strict=s) for s in (False, True)]
    assert abs(strict[0] - strict[1]).max() <= 1


def test_the_first_estimate_of_the_other_half_is_not_touched():
    """By composition, one evaluation: the right half of x0 is that of the base alone, where nothing of it is in the region."""
    one = drawn("a man", Regions((Region(left(), "bald red hair"),), "estimates", 0.0), steps=1, guidance=1.0)
    plain = drawn("a man", steps=1, guidance=1.0)
    assert (one[:, :, 8:] == plain[:, :, 8:]).all() and abs(one[:, :, :8] - plain[:, :, :8]).max() > 1


def test_the_command(capsys, tmp_path):
    save(SYSTEM, tmp_path / "base.safetensors")
    left().save(tmp_path / "left.png")
    Image.new("L", (16, 16)).save(tmp_path / "black.png")

    def asked(mask, *more):
        text = f"region(mask='{tmp_path}/{mask}', prompt='bald red hair')"
        options = ("--model", tmp_path / "base.safetensors", "--out", tmp_path / "out", "--precision", "float32")
        return command(capsys, "generate", "a man", "--seed", 3, "--steps", 3, *options, "--region", text, *more)

    for by in ("estimates", "attention"):
        code, out, err = asked("left.png", "--regions-by", by)
        assert code == 0, err
        with Image.open(out.strip()) as image:
            expected = drawn("a man", Regions((Region(left(), "bald red hair"),), by), count=1)
            assert abs(pixels([image]) - expected).max() <= 1
            assert "bald red hair" in image.text["reverie"]
    for wrong, said in (("black.png", "is black everywhere"), ("nowhere.png", "is not there")):
        code, _, err = asked(wrong)
        assert code == 2 and said in err


def test_what_cannot_be_is_said():
    for make, said in (
        (lambda: Regions(()), "no regions"),
        (lambda: Regions((Region(left(), "x"),), "magic"), "estimates or attention"),
        (lambda: Regions((Region(left(), "x"),), ratio=2), "share of the whole"),
        (lambda: parted("regoin(mask='a', prompt='b')"), "regoin"),
    ):
        with pytest.raises(UserError, match=said):
            make()
    assert np.asarray(left()).any()
