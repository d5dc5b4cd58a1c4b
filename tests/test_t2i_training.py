"""A T2I-adapter of our own: trained by the recipe of controls, written, opened, and heard on the way down of a U-Net."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from small import small_system
from test_control_training import SHORT, SYSTEM, awake, changed, job, small_recipe, values

from reverie.errors import UserError
from reverie.nets.control import control_of
from reverie.nets.t2i import T2IAdapter, t2i_of
from reverie.nets.unet import UNet, UNetConfig
from reverie.systems.control import open_control
from reverie.systems.weights import save
from reverie.tasks import generate
from reverie.tasks.control import Steer
from reverie.tasks.train import Session
from reverie.train import Run, fit


@pytest.mark.parametrize(
    "config",
    [
        UNetConfig(channels=8, mult=(1, 2, 3), blocks=1, attention=(), groups=4),
        UNetConfig(channels=8, mult=(1, 2), blocks=2, attention=(), groups=4, patch=2),
        UNetConfig(channels=8, mult=(2,), blocks=1, attention=(), groups=4),
    ],
)
def test_each_feature_joins_the_last_block_of_a_level(config):
    net = awake(UNet(config))
    adapter = t2i_of(net, factor=4)
    said = adapter.heard(torch.zeros(2, 3, 64, 64))
    x, t = torch.randn(2, 3, 16, 16), torch.full((2,), 0.3)
    plain, joined = control_of(net).body.features(x, t), adapter.spread(said)
    assert len(said) == len(config.mult) and [s.shape for s in said] == [plain[p].shape for p in adapter.config.places]
    assert not torch.equal(net(x, t, inner=joined), net(x, t))


def test_it_learns_and_the_model_stays(tmp_path):
    torch.manual_seed(0)
    adapter = t2i_of(SYSTEM.denoiser.net)
    run = Run(job(adapter), replace(SHORT, steps=40, rate=3e-3), tmp_path)
    base, before, was = values(SYSTEM.denoiser), values(adapter), run.job.validate()
    for _ in fit(run):
        continue
    assert run.job.validate() < 0.95 * was
    assert not changed(SYSTEM.denoiser, base) and len(changed(adapter, before)) == len(before)


def test_from_the_recipe_to_a_picture(tmp_path):
    save(small_system(), tmp_path / "small.safetensors")
    recipe = small_recipe("avatars-edges", adapter=True, base=str(tmp_path / "small.safetensors"), size=16)
    session = Session.open(recipe, tmp_path / "lines", resume=False)
    assert all(torch.isfinite(torch.tensor(now.loss)) for now in session)
    again = open_control(tmp_path / "lines", session.system.base)
    assert isinstance(again.net, T2IAdapter) and again.hint == "edges()"
    picture = Image.effect_noise((16, 16), 90).convert("RGB")
    told = Steer((again,), (picture,), ("edges()",))
    assert generate(session.system.base, "a man", tasks=[told], steps=2)[0] != generate(session.system.base, "a man", steps=2)[0]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"begin": "avatars-edges"}, "--adapter learns whole"),
        ({"rank": 4}, "--adapter learns whole"),
        ({}, "--adapter is of a U-Net, and reverie-avatars is a DiT"),
    ],
)
def test_what_cannot_be_an_adapter(more, said):
    recipe = small_recipe("avatars-edges", adapter=True, **more)
    with pytest.raises(UserError, match=said):
        recipe.prepare(recipe.pictures())
