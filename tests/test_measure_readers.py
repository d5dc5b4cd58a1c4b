"""How readers are trained, saved and loaded."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from small import small_system

from reverie.data.pictures import Pictures
from reverie.errors import UserError
from reverie.measure import ClassReader, shown, thumbnails
from reverie.measure.report import table
from reverie.nets.classifier import ClassifierConfig
from reverie.systems.readers.recipe import FASHION_READER, ReaderRecipe, targets
from reverie.systems.recipes import RECIPES
from reverie.systems.shipped import READERS, open_reader
from reverie.tasks import judges
from reverie.tasks.evaluate import evaluate
from reverie.tasks.train import Session
from reverie.train.jobs import to_signal
from reverie.train.loop import Key
from reverie.train.training import Training


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


def sides(seed=0):
    """(pictures, whether the mark is on the right); few are."""
    pictures = dots(400, seed)
    found = {side: [i for i, a in enumerate(pictures.attributes) if a.get("side") == side] for side in ("left", "right")}
    kept = pictures.take(found["left"] + found["right"][:40])
    return kept.images, np.array([a["side"] == "right" for a in kept.attributes], int)


def test_a_reader_of_classes_is_right_on_pictures_it_has_not_seen():
    images, labels = sides()
    reader = ClassReader(thumbnails(), images, labels, ("left", "right"))
    others, true = sides(seed=1)
    assert [found["class"] == "right" for found in reader.read(others)] == true.astype(bool).tolist()
    assert shown(others, [{"class": reader.values["class"][k]} for k in true], reader).overall == 1


def test_a_reader_of_classes_is_the_regression_of_its_equation():
    """Against the primal form, on features of three numbers."""
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(30, 3)), rng.integers(0, 3, 30)
    features = {30: x, 5: rng.normal(size=(5, 3))}
    reader = ClassReader(lambda p: features[len(p)], np.zeros(30), labels, "abc")
    far, y = x - x.mean(0), np.eye(3)[labels]
    slopes = np.linalg.solve(far.T @ far + 0.1 * np.square(far).sum() / 30 * np.eye(3), far.T @ (y - y.mean(0)))
    scores = y.mean(0) + (features[5] - x.mean(0)) @ slopes
    np.testing.assert_allclose(reader.slopes, slopes, atol=1e-12)
    assert [found["class"] for found in reader.read(np.zeros(5))] == ["abc"[k] for k in scores.argmax(1)]


def test_a_class_without_pictures_is_never_read_and_one_class_is_not_enough():
    images, labels = sides()
    reader = ClassReader(thumbnails(), images, 2 * labels, ("left", "middle", "right"))
    assert {found["class"] for found in reader.read(images)} == {"left", "right"}
    with pytest.raises(UserError, match="two classes"):
        ClassReader(thumbnails(), images, 0 * labels, ("left", "right"))


def folder_of(path, classes=(), captions=False):
    """Flat pictures, 20 of each class; `small_system` that says it was trained on them."""
    for k, name in enumerate(classes or ("",)):
        (path / name).mkdir(parents=True, exist_ok=True)
        for i in range(20):
            Image.new("RGB", (16, 16), tuple(200 if c == k else 50 + i for c in range(3))).save(path / name / f"{i}.png")
            if captions:
                (path / name / f"{i}.txt").write_text("a red man")
    system = small_system()
    return replace(system, about={**system.about, "recipe": {"source": "folder", "data": str(path)}})


def test_a_folder_of_classes_is_judged_by_a_reader_fitted_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(judges, "imagenet", thumbnails)
    sheet = evaluate(folder_of(tmp_path, ("bald", "hair", "red")), 12, steps=1)
    own, real, nothing = sheet.rows
    assert real.agreement == 1 and own.agreement < 0.8 and nothing.agreement < 0.8
    assert sum(sheet.marks["what was asked"].asked.values()) == 12
    assert "of the class" in own.note and "30 other real pictures" in own.note


@pytest.mark.parametrize(
    ("classes", "captions", "why"), [(("",), True, "only classes"), (("",), False, "only classes"), (("bald",), False, "only one")]
)
def test_where_nothing_can_be_read_the_table_says_why(tmp_path, monkeypatch, classes, captions, why):
    monkeypatch.setattr(judges, "imagenet", thumbnails)
    sheet = evaluate(folder_of(tmp_path, classes, captions), 10, steps=1)
    assert [row.agreement for row in sheet.rows] == [None] * 3 and not sheet.marks
    (last,) = [line for line in table(sheet.rows).splitlines() if line.startswith("agreement")]
    assert "not measured" in last and why in last
