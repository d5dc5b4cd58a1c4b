"""How readers are trained, saved and loaded."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from reverie.data.pictures import Pictures
from reverie.errors import UserError
from reverie.measure.agreement import shown
from reverie.nets.classifier import ClassifierConfig
from reverie.systems.readers.recipe import FASHION_READER, ReaderRecipe, targets
from reverie.systems.recipes import RECIPES
from reverie.systems.shipped import READERS, open_reader
from reverie.tasks.train import Session
from reverie.train.jobs import to_signal
from reverie.train.loop import Key, Training


def dots(count=160, seed=0):
    """Bright or dark pictures, with a mark on the left or on the right; every fifth has no mark."""
    rng = np.random.default_rng(seed)
    bright, side = rng.integers(0, 2, count), rng.integers(0, 2, count)
    images = np.where(bright, 160, 40)[:, None, None, None] + rng.integers(0, 20, (count, 3, 16, 16))
    attributes = []
    for k in range(count):
        attributes.append({"light": ("dark", "bright")[bright[k]]})
        if k % 5:
            images[k, :, 5:11, 1 + 9 * side[k] : 6 + 9 * side[k]] = 240
            attributes[-1]["side"] = ("left", "right")[side[k]]
    return Pictures("dots", images.astype(np.uint8), "CC0-1.0", attributes=tuple(attributes))


class Dots(ReaderRecipe):
    def pictures(self):
        return dots()


def recipe(**more):
    training = Training(steps=60, batch=16, rate=1e-2, warmup=5, holdout=16, widths=(0.1,), snapshots=0, bf16=False)
    net = ClassifierConfig(channels=8, mult=(1, 2), groups=4)
    return Dots(name="dots", source="dots", size=16, heads=("light", "side"), net=net, training=replace(training, **more))


def test_a_reader_learns_is_saved_and_reads(tmp_path):
    session = Session.open(recipe(), tmp_path, resume=False)
    losses = [now.loss for now in session]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])
    fresh = dots(seed=1)
    reader = open_reader(tmp_path / "model.safetensors")
    assert reader.values == {"light": ("bright", "dark"), "side": ("left", "right")}
    assert shown(fresh.images, fresh.attributes, reader).overall > 0.9


def test_an_absent_attribute_says_nothing_to_its_head():
    pictures = dots()
    job = recipe().prepare(pictures)[1]
    x = to_signal(pictures.images[:4])
    light = {"light": np.array([0, 1, 0, 1]), "side": np.full(4, -1)}
    assert torch.equal(job.misread(x, light), job.misread(x, {"light": light["light"]}))
    assert targets(pictures, {"side": ("left", "right")})["side"][:6].tolist().count(-1) == 2


def test_pictures_are_worn_as_the_step_says_and_keep_their_shape():
    job = recipe().prepare(dots())[1]
    x = to_signal(dots().images[:8])
    once, again, other = (job.worn(x, Key(0, step).torch("wear")) for step in (1, 1, 2))
    assert once.shape == x.shape and torch.equal(once, again) and not torch.equal(once, other)
    job.noise = job.soft = job.shift = 0
    assert torch.equal(job.worn(x, Key(0, 1).torch("wear")), x)


def test_a_head_without_classes_is_refused():
    with pytest.raises(UserError, match="nothing to tell apart under 'hats'"):
        replace(recipe(), heads=("hats",)).prepare(dots())


def test_a_damaged_reader_is_refused(tmp_path):
    path = READERS["fashion"]
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="not a whole safetensors"):
        open_reader(cut)


def test_the_readers_are_recipes():
    assert RECIPES["fashion-reader"] is FASHION_READER and "avatars-reader" in RECIPES
