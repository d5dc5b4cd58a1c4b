"""`avatars-latent` and its autoencoder at toy size: prepared, trained, saved, opened, asked; and what does not fit together."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from reverie.codec import Latent
from reverie.data.avatars import VALUES, avatars
from reverie.data.packed import Packed, write
from reverie.encode import Concepts
from reverie.errors import UserError
from reverie.nets.autoencoder import AutoencoderConfig
from reverie.nets.dit import DiTConfig
from reverie.nets.mmdit import MMDiT
from reverie.systems.recipes import RECIPES
from reverie.systems.shipped import open_model
from reverie.systems.system import Part
from reverie.systems.weights import load, load_any, save
from reverie.tasks.generate import generate
from reverie.tasks.train import Session

SMALL = AutoencoderConfig(patch=8, channels=8, mult=(1,), blocks=1, latent=8, attention=False, groups=4, straight=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Avatars of 32 px in a file."""
    some = avatars().take(np.arange(0, 480, 10))
    images = some.images.reshape(len(some), 3, 32, 2, 32, 2).mean((3, 5)).round().astype(np.uint8)
    path = tmp_path_factory.mktemp("avatars") / "avatars-32.safetensors"
    write(path, Packed("avatars", "-", "-", images, some.attributes, values=VALUES))
    return str(path)


@pytest.fixture(scope="module")
def codec(data, tmp_path_factory):
    """A run of the autoencoder's recipe, in a folder."""
    preset, folder = RECIPES["avatars-autoencoder"], tmp_path_factory.mktemp("codec")
    training = replace(preset.training, steps=4, batch=8, holdout=4, warmup=1)
    session = Session.open(replace(preset, data=data, size=32, net=SMALL, training=training), folder, resume=False)
    assert all(np.isfinite(now.loss) for now in session)
    return str(folder)


def small(data, codec, **changes):
    preset = RECIPES["avatars-latent"]
    net = replace(preset.net, width=32, heads=2, depth=2, size=2, table=2)
    training = replace(preset.training, steps=60, batch=16, holdout=4, warmup=5, snapshots=0, rate=4e-3)
    return replace(preset, **{"data": data, "codec": codec, "size": 32, "net": net, "training": training} | changes)


def test_the_recipe_learns_and_its_file_draws_what_it_is_asked(data, codec, tmp_path):
    recipe = small(data, codec)
    session = Session.open(recipe, tmp_path, resume=False)
    assert isinstance(session.system.codec, Latent) and isinstance(session.system.denoiser.net, MMDiT)
    before = session.run.job.validate()
    assert all(np.isfinite(now.loss) for now in session)
    assert session.run.job.validate() < 0.9 * before
    again = load(tmp_path / "model.safetensors")
    ours, theirs = (generate(s, "a bald man", seed=3, steps=3)[0] for s in (replace_weights(session), again))
    assert again.encoders["prompt"].apart and ours.size == (32, 32)
    assert np.abs(np.array(ours, int) - np.array(theirs, int)).max() <= 8  # the one computes in bfloat16, where it trained
    other = generate(again, "a woman with long pink hair, micah style", seed=3, steps=3)[0]
    assert not np.array_equal(np.array(other), np.array(theirs))


def replace_weights(session):
    """The session's system with the averages that the file holds."""
    state = {k: v for k, v in load(session.folder / "model.safetensors").denoiser.state_dict().items()}
    session.system.denoiser.load_state_dict(state)
    return session.system


def test_every_attribute_is_a_token_of_its_own():
    plain = open_model("reverie-avatars").encoders["prompt"]
    told = plain.parted().prompts(["a bald man with a beard, micah style", ""])
    assert isinstance(plain, Concepts) and told.tokens.shape == (2, len(VALUES), plain.width) and told.mask is None
    torch.testing.assert_close(told.tokens.sum(1), plain.prompts(["a bald man with a beard, micah style", ""]).vector)
    assert ((told.tokens != 0).sum(1) <= 1).all() and plain.prompts([""]).tokens is None
    assert not any(p.requires_grad for p in plain.parted().parameters())


def test_what_does_not_fit_together_is_said(data, codec, tmp_path, monkeypatch):
    four = replace(load_any(f"{codec}/model.safetensors"), codec=Latent(replace(SMALL, patch=4)))
    six = replace(four, codec=Latent(replace(SMALL, latent=6)))
    for name, part in (("four", four), ("six", six), ("none", Part())):
        save(part, tmp_path / f"{name}.safetensors")
    recipe = small(data, codec)
    preset = RECIPES["avatars-latent"]
    monkeypatch.chdir(tmp_path)
    wrong = {
        "makes pictures 4 times smaller, not 8": replace(recipe, codec=str(tmp_path / "four.safetensors")),
        "8 channels in .* this data needs 6 and 6": replace(recipe, codec=str(tmp_path / "six.safetensors")),
        "is a part without one": replace(recipe, codec=str(tmp_path / "none.safetensors")),
        "train it first with `reverie train avatars-autoencoder`": replace(recipe, codec=preset.codec),
        "has no text encoder": replace(recipe, wording=str(tmp_path / "none.safetensors")),
        "32x32, not 128x128": replace(recipe, size=128),
    }
    for said, other in wrong.items():
        with pytest.raises(UserError, match=said) as found:
            other.prepare(other.pictures())
        assert "\n" not in str(found.value)


def test_only_concepts_tell_of_attributes(data, codec, tmp_path):
    plain = small(data, codec, wording="", words=RECIPES["folder"].words, apart=False)
    system, _ = replace(plain, net=DiTConfig(**DIT)).prepare(plain.pictures())
    save(system, tmp_path / "words.safetensors")
    with pytest.raises(UserError, match="does not tell of attributes"):
        told = small(data, codec, wording=str(tmp_path / "words.safetensors"))
        told.prepare(told.pictures())


DIT = {"in_channels": 8, "size": 4, "patch": 2, "width": 32, "depth": 1, "heads": 2, "learn_sigma": False, "vector_dim": 128}
