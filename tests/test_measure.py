"""Distances of known answer, agreement counted by hand, prompts that tell the truth, and readers that read."""

import json

import numpy as np
import pytest
import torch
from small import small_system

from reverie.cli import evaluate
from reverie.codec import Pixels
from reverie.data.avatar_attributes import HELD_OUT, SUPPORT, held_out
from reverie.data.avatar_words import VOCABULARY, caption, words
from reverie.data.avatars import PART, avatars
from reverie.data.fashion import CLASSES, FOLDER, fashion_mnist
from reverie.denoiser import Denoiser, log_snr
from reverie.encode import Classes
from reverie.errors import UserError
from reverie.measure import agreement, avatar_prompts, copies, frechet, kid, precision_recall, shown, thumbnails
from reverie.measure.distances import covariance, frechet_of, nearest
from reverie.measure.report import Row, noise, table
from reverie.nets.unet import UNet, UNetConfig
from reverie.process import rules, schedules
from reverie.systems import Sampling, System
from reverie.systems.shipped import SHIPPED, open_reader

RNG = np.random.default_rng(0)


def random_covariance(rng, size):
    root = rng.standard_normal((size, size))
    return root @ root.T / size


# --- distances


def test_frechet_of_diagonal_gaussians_is_the_closed_form():
    a, b = np.array([1.0, 4.0, 0.25]), np.array([9.0, 1.0, 0.0])
    mean = np.array([1.0, -2.0, 0.5])
    expected = (mean**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_of(np.zeros(3), np.diag(a), mean, np.diag(b)) == pytest.approx(expected, abs=1e-10)


def test_frechet_does_not_change_with_the_axes_or_the_order():
    a, b = random_covariance(RNG, 5), random_covariance(RNG, 5)
    turn = np.linalg.qr(RNG.standard_normal((5, 5)))[0]
    zero = np.zeros(5)
    plain = frechet_of(zero, a, zero, b)
    assert plain == pytest.approx(frechet_of(zero, b, zero, a), rel=1e-9)
    assert plain == pytest.approx(frechet_of(zero, turn @ a @ turn.T, zero, turn @ b @ turn.T), rel=1e-9)
    eigenvalues = np.linalg.eigvals(a @ b)  # tr (A^1/2 B A^1/2)^1/2 = sum of the roots of the eigenvalues of A B
    assert plain == pytest.approx(np.trace(a + b) - 2 * np.sqrt(eigenvalues.real).sum(), rel=1e-9)


def test_frechet_of_samples_finds_the_shift_and_lacks_no_rank():
    few = RNG.standard_normal((20, 50))
    assert frechet(few, few) == pytest.approx(0, abs=1e-6)
    assert frechet(few, few + 2) == pytest.approx(50 * 4, rel=1e-6)
    assert covariance(few) == pytest.approx(np.cov(few.T))


def test_kid_is_unbiased_at_nought_and_grows_with_the_shift():
    a, b = RNG.standard_normal((600, 16)), RNG.standard_normal((600, 16))
    same, spread = kid(a, b, size=200, subsets=30)
    shifted = kid(a, b + 0.5, size=200, subsets=30)[0]
    assert abs(same) < 0.02 and spread > 0
    assert shifted > 0.2
    assert kid(a, b + 1, size=200, subsets=30)[0] > 2 * shifted
    assert kid(a[:100], b[:100])[1] == 0  # one subset: the whole
    trials = [kid(*RNG.standard_normal((2, 40, 8)))[0] for _ in range(200)]
    assert abs(np.mean(trials)) < 3 * np.std(trials) / np.sqrt(200)  # the mean of an unbiased estimate of nought


def test_kid_by_hand():
    a, b = np.array([[1.0], [0.0]]), np.array([[2.0], [0.0]])
    # k(1,0) = 1 twice, k(2,0) = 1 twice; across: k(1,2) = 27, the rest 1
    assert kid(a, b)[0] == pytest.approx(1 + 1 - 2 * (27 + 3) / 4)


def test_precision_and_recall_of_known_cases():
    real = RNG.standard_normal((300, 4))
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(real, real + 100) == (0.0, 0.0)
    two = np.concatenate([real[:150], real[150:] + 50])
    precision, recall = precision_recall(two, two[:150] + 1e-3)  # one of two modes: all true, half covered
    assert precision == 1.0 and recall == pytest.approx(0.5)


def test_copies_counts_recitation():
    training, held, fresh = RNG.standard_normal((3, 400, 6))
    assert copies(training[:50] + 1e-6, training, held) == 1.0
    assert copies(fresh, training, held) == pytest.approx(0.05, abs=0.04)
    mixed = np.concatenate([training[:50], fresh[:50] + 10])
    assert copies(mixed, training, held) == 0.5
    assert nearest(np.array([[0.0, 3.0]]), np.array([[4.0, 0.0], [9.0, 9.0]])) == pytest.approx([5.0])


def test_distances_refuse_what_they_cannot_measure():
    with pytest.raises(UserError, match="too few"):
        frechet(np.zeros((1, 3)), np.zeros((5, 3)))
    with pytest.raises(UserError, match="NaN"):
        kid(np.full((5, 3), np.nan), np.zeros((5, 3)))
    with pytest.raises(ValueError, match="one space"):
        precision_recall(np.zeros((5, 3)), np.zeros((5, 4)))


def test_thumbnails_measure_gray_levels():
    black, white = np.zeros((1, 3, 32, 32), np.uint8), np.full((1, 3, 32, 32), 255, np.uint8)
    assert np.linalg.norm(thumbnails()(white) - thumbnails()(black)) == pytest.approx(1.0)


# --- agreement


def test_agreement_counts_by_hand():
    asked = [{"hair": "bun", "skin": "tan", "mood": "odd"}, {"hair": "bob"}, {"skin": "dark"}]
    read = [{"hair": "bun", "skin": "dark"}, {"hair": "bob", "skin": "tan"}, {"hair": "bun", "skin": "dark"}]
    found = agreement(asked, read)
    assert found.asked == {"hair": 2, "skin": 2} and found.right == {"hair": 2, "skin": 1}
    assert found.overall == 0.75 and found.each == {"hair": 1.0, "skin": 0.5}


def test_agreement_refuses_other_counts_and_unreadable_wishes():
    with pytest.raises(UserError, match="2 pictures were asked"):
        agreement([{"a": "b"}] * 2, [{"a": "b"}])
    with pytest.raises(UserError, match="nothing that was asked"):
        agreement([{"colour": "red"}], [{"hair": "bun"}])


# --- prompts


@pytest.fixture(scope="module")
def packaged():
    return avatars()


@pytest.fixture(scope="module")
def prompts():
    return avatar_prompts()


def test_prompts_are_many_and_always_the_same(prompts):
    assert len(prompts) >= 200 and prompts[:30] == avatar_prompts(30)
    assert avatar_prompts(2, avoid=[prompts[0].avatar])[0] != prompts[0] and avatar_prompts(2, avoid=[{}]) == prompts[:2]
    assert len({p.text for p in prompts}) == len(prompts)
    assert sum(p.new for p in prompts) == len(prompts) // 2


def test_prompts_tell_the_truth_in_known_words(prompts):
    for p in prompts:
        assert all(p.avatar[name] == value for name, value in p.attributes.items())
        assert held_out(p.attributes) == p.new  # what the text itself asks for, not only the avatar behind it
        assert set(words(p.text)) <= VOCABULARY and len(p.attributes) >= 2
        support = SUPPORT[p.avatar["style"]]
        assert all(value in support.get(name, (value,)) for name, value in p.attributes.items())
    covered = [any(all(p.attributes.get(k) == v for k, v in rule.items()) for p in prompts) for rule in HELD_OUT]
    assert all(covered)


def test_no_prompt_is_from_the_packaged_part(packaged, prompts):
    seen = {tuple(sorted(a.items())) for a in packaged.attributes}
    rng = np.random.default_rng(3)
    said = {caption(a, rng) for a in packaged.attributes}
    for p in prompts:
        assert tuple(sorted(p.avatar.items())) not in seen
        assert p.text not in said
        if p.new:
            assert not any(p.attributes.items() <= a.items() for a in packaged.attributes)


# --- readers


def test_the_avatars_reader_reads(packaged):
    pictures = packaged.split(1000)[1].take(range(200))
    found = shown(pictures.images, pictures.attributes, open_reader("avatars"))
    assert found.overall > 0.95
    assert min(found.each.values()) > 0.85


@pytest.mark.skipif(not FOLDER.exists(), reason="Fashion-MNIST is not installed: apt-get install dataset-fashion-mnist")
def test_the_fashion_reader_reads():
    pictures = fashion_mnist("test").pad(32).take(range(200))
    assert shown(pictures.images, pictures.attributes, open_reader("fashion")).overall > 0.87


def test_a_reader_takes_other_sizes_and_colours():
    reader = open_reader("fashion")
    gray = np.zeros((3, 1, 28, 28), np.uint8)
    assert reader.features(gray).shape == reader.features(np.repeat(gray, 3, 1)).shape == (3, 128)
    assert reader.features(gray).dtype == np.float64


def test_readers_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="Did you mean 'avatars'"):
        open_reader("avatar")
    with pytest.raises(UserError, match="no reverie card"):
        open_reader(PART)
    with pytest.raises(UserError, match="not a reader"):
        open_reader(SHIPPED["reverie-avatars"])
    with pytest.raises(UserError, match="check the path"):
        open_reader(tmp_path / "none.safetensors")


# --- the table


def test_the_table_is_aligned_and_says_n():
    rows = [Row("tiny", 500, 12.345, 3.0, 0.5, 0.25, 0.901, 0.05, 20, 0.125), Row("noise", 500, 900.0, 65.0, 0, 0, None, 0)]
    lines = table(rows).splitlines()
    assert "KID x1000" in lines[0] and " n " in lines[0]
    assert lines[1].startswith("tiny ") and "12.35" in lines[1] and "90.1%" in lines[1]
    assert len({line.index(mark) + len(mark) for line, mark in zip(lines, ("KID x1000", "12.35", "900.00"), strict=True)}) == 1


def test_noise_is_noise():
    made = noise(np.zeros((4, 3, 16, 16), np.uint8))
    assert made.dtype == np.uint8 and 110 < made.mean() < 145 and made.std() > 70


def test_evaluate_refuses_a_model_without_pictures(monkeypatch):
    monkeypatch.setattr(evaluate, "open_model", lambda name: small_system())
    with pytest.raises(UserError, match="names no pictures"):
        evaluate.main(["small"])
    with pytest.raises(UserError, match="at least 10"):
        evaluate.main(["small", "--samples", "3"])
    with pytest.raises(UserError, match="--samples"):
        evaluate.main(["small", "--sampels", "30"])


def tiny_of_clothes(count, data=""):
    """An untrained model of clothes that says it was trained on `count` pictures in the folder `data`."""
    torch.manual_seed(0)
    net = UNet(UNetConfig(in_channels=1, out_channels=1, patch=4, channels=16, mult=(1,), attention=(), vector_dim=8, groups=8))
    model = Denoiser(net, schedules.edm(), rules.edm(0.5), log_snr(), sigma_data=0.5)
    recipe = {"source": "fashion-mnist", "data": str(data), "size": 32, "training": {"holdout": 40}}
    about = {"name": "tiny", "recipe": recipe, "data": {"name": "fashion-mnist-train", "count": count}}
    defaults = Sampling(steps=2, guidance=1.0, size=(32, 32))
    return System(denoiser=model, codec=Pixels(1), encoders={"class": Classes(CLASSES, 8)}, defaults=defaults, about=about)


def clothes(folder, count=60):
    """A small Fashion-MNIST in a folder of its own."""
    folder.mkdir()
    for split, n in (("train", count), ("t10k", 40)):
        images = np.random.default_rng(n).integers(0, 256, (n, 28, 28), dtype=np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", (np.arange(n) % 10).astype(np.uint8))):
            head = bytes((0, 0, 8, array.ndim)) + b"".join(side.to_bytes(4, "big") for side in array.shape)
            (folder / f"{split}-{kind}-ubyte").write_bytes(head + array.tobytes())
    return folder


def test_copies_are_told_only_by_the_pictures_the_model_saw(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("reverie.data.fashion.FOLDER", tmp_path / "none")  # nothing is read from elsewhere
    own, other = clothes(tmp_path / "own"), clothes(tmp_path / "other", 70)
    for data, measured in (([], True), (["--data", str(own)], True), (["--data", str(other)], False)):
        monkeypatch.setattr(evaluate, "open_model", lambda name: tiny_of_clothes(60, own))
        evaluate.main(["tiny", "--samples", "10", *data])
        said = capsys.readouterr().out
        assert ("copies: not measured" not in said) == measured
        assert (" -  " in said.splitlines()[1]) != measured


@pytest.mark.skipif(not FOLDER.exists(), reason="Fashion-MNIST is not installed: apt-get install dataset-fashion-mnist")
def test_evaluate_measures_a_model_of_clothes(monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "open_model", lambda name: tiny_of_clothes(60_000))
    evaluate.main(["tiny", "--samples", "30", "--json"])
    said = json.loads(capsys.readouterr().out)
    own, real, nothing = said["rows"]
    assert [row["n"] for row in said["rows"]] == [30] * 3 and (own["name"], real["name"], nothing["name"]) == (
        "tiny",
        "real",
        "noise",
    )
    assert real["frechet"] < own["frechet"] and real["kid"] < own["kid"] and real["kid"] < nothing["kid"]
    assert real["agreement"] > 0.7 > nothing["agreement"]
    assert own["copies"] == 0 and real["copies"] is not None
    assert own["nfe"] >= 2 and own["seconds"] > 0 and real["nfe"] is None
    assert said["agreement"]["what was asked"]["asked"] == 30
