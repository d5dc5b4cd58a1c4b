"""Controls of ours as files: what is written comes back, belongs to its model, and is checked whole."""

import logging
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small import small_system
from test_control import NETS, awake, copied, told

from reverie.adapt import Control, Controlled
from reverie.codec import Pixels
from reverie.denoiser import Denoiser
from reverie.errors import UserError
from reverie.nets.t2i import T2IAdapter, T2IConfig
from reverie.process import rules, schedules
from reverie.systems import Sampling, System, load, save
from reverie.systems.control import open_control, save_control
from reverie.systems.weights import load_any

T = torch.tensor(0.5)


def system_of(name):
    factor, make = NETS[name]
    net = awake(make()).eval().requires_grad_(False)
    codec = Pixels(net.config.in_channels)
    codec.factor = factor
    model = Denoiser(net, schedules.flow(), rules.velocity())
    return System(denoiser=model, codec=codec, defaults=Sampling(), about={"name": name, "hash": "ab" * 32})


@torch.no_grad()
@pytest.mark.parametrize("name", NETS)
def test_what_is_written_comes_back(name, tmp_path):
    torch.manual_seed(0)
    system, file = system_of(name), tmp_path / "canny.safetensors"
    net = awake(copied(system.denoiser.net, NETS[name][0])).eval().requires_grad_(False)
    save_control(net, file, system, {"licence": "CC0-1.0"})
    found = open_control(file, system, weight=0.5)
    assert found.net.config == net.config and (found.name, found.weight) == ("canny", 0.5)
    side = 32 if NETS[name][0] == 1 else 8
    x, factor = torch.randn(1, system.denoiser.net.config.in_channels, side, side), NETS[name][0]
    cond = replace(told(system.denoiser.net, 1), hints=(torch.rand(1, 3, factor * side, factor * side),))
    one, two = (Controlled(system.denoiser, [c])(x, T, cond) for c in (found, Control(net=net, weight=0.5)))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


def test_a_t2i_adapter_too(tmp_path):
    system, file = system_of("unet"), tmp_path / "depth.safetensors"
    net = T2IAdapter(T2IConfig(channels=(16, 32), blocks=1, places=(1, 3)))
    save_control(net, file, system)
    assert open_control(file, system).net.config == net.config
    save_control(T2IAdapter(T2IConfig(channels=(16, 32), blocks=1, places=(1, 2))), file, system)
    with pytest.raises(UserError, match=r"features of \[16, 32\] channels, and unet takes \[16, 16\]"):
        open_control(file, system)


def test_of_another_model(tmp_path, caplog):
    system, file = system_of("dit"), tmp_path / "edges.safetensors"
    save_control(copied(system.denoiser.net, 8), file, system)
    with pytest.raises(UserError, match=r"edges\.safetensors is a control of dit, and avatars has a net of another shape"):
        open_control(file, system_of("avatars"))
    with caplog.at_level(logging.WARNING, "reverie"):
        open_control(file, system)
        assert not caplog.messages
        open_control(file, replace(system, about={"name": "mine", "hash": "cd" * 32}))
    assert "trained on dit of other weights than these of mine" in caplog.messages[0]


def test_a_file_that_is_not_whole(tmp_path):
    system, file = system_of("unet"), tmp_path / "edges.safetensors"
    save_control(copied(system.denoiser.net, 8), file, system)
    with safe_open(file, "pt") as handle:
        card = handle.metadata()
    tensors = load_file(file)
    for changed, text, why in (
        ({"zeros.0.bias": torch.full((16,), float("nan"))}, card, "zeros.0.bias holds NaN"),
        ({"more": torch.zeros(1)}, card, "do not fit its card.*more"),
        ({}, {"reverie.card": card["reverie.card"].replace('"factor"', '"faktor"')}, "no field 'faktor'. Did you mean 'factor'"),
        (
            {},
            {"reverie.card": card["reverie.card"].replace('"channels": 16', '"channels": 17')},
            "can be made",
        ),
        ({}, {"reverie.card": card["reverie.card"].replace('"base"', '"bass"')}, "unknown field 'bass'"),
        ({}, {"reverie.card": card["reverie.card"].replace('"format": 2', '"format": 99')}, "later version"),
    ):
        save_file(tensors | changed, file, text)
        with pytest.raises(UserError, match=why):
            open_control(file, system)
    model = tmp_path / "model.safetensors"
    save(small_system(), model)
    with pytest.raises(UserError, match="is a model of ours and no control"):
        open_control(model, system)


def test_a_control_is_no_model(tmp_path):
    system, file = system_of("unet"), tmp_path / "edges.safetensors"
    save_control(copied(system.denoiser.net, 8), file, system)
    for opens in (load, load_any):
        with pytest.raises(UserError, match="is a control of unet, and makes no pictures alone: name that model"):
            opens(file)
