"""Law 11: a published backbone gives what the public implementation gives, and has exactly its number of parameters.

The outputs compared with were made once by `tests/data/make_ddpm_reference.py`, which runs the public implementation. Both
sides draw each weight from a stream named by our key, so no weights need to be stored.
"""

import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reverie.nets import dit
from reverie.nets.autoencoder import KL_F4, KL_F8, Autoencoder
from reverie.nets.unet import DDPM_CIFAR10, UNet

REFERENCE = Path(__file__).parent.parent / "data" / "ddpm_reference.safetensors"
SMALL = replace(DDPM_CIFAR10, channels=32, dropout=0.0)


def drawn(shapes):
    """{our key: weight} for {our key: shape}: He-like matrices, norms near 1, small biases."""
    weights = {}
    for key, shape in shapes.items():
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
        if len(shape) > 1:
            weights[key] = noise / noise[0].numel() ** 0.5
        else:
            weights[key] = 0.1 * noise + ("norm" in key and key.endswith("weight"))
    return weights


def ddpm_inputs():
    """x (2, 3, 32, 32) and t (2,)."""
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(11))
    return x, torch.tensor([17.0, 803.0])


def count(net):
    return sum(p.numel() for p in net.parameters())


def error(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_ddpm_equals_the_public_implementation(layout):
    net = UNet(SMALL).eval()
    net.load_state_dict(drawn({k: v.shape for k, v in net.state_dict().items()}))
    net = net.to(memory_format=layout)
    reference = load_file(REFERENCE)
    x, t = ddpm_inputs()
    with torch.no_grad():
        y = net(x.to(memory_format=layout), t)
    assert reference["output"].std() > 0.1
    assert error(y, reference["output"]) < 1e-5
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(net(x.to(memory_format=layout), t).square().sum(), x)
    assert error(gradient, reference["gradient"]) < 1e-5


def test_unet_count():
    with torch.device("meta"):
        assert count(UNet(DDPM_CIFAR10)) == 35_746_307


def test_autoencoder_counts():
    with torch.device("meta"):
        f8, f4 = Autoencoder(KL_F8), Autoencoder(KL_F4)
    assert (count(f8), count(f8.encoder), count(f8.decoder)) == (83_653_863, 34_163_592, 49_490_179)
    assert count(f4) == 55_312_063


DIT = {
    "S_2": 32_963_360,
    "S_4": 32_945_024,
    "S_8": 33_148_160,
    "B_2": 130_512_416,
    "B_4": 130_475_648,
    "B_8": 130_881_536,
    "L_2": 458_102_816,
    "L_4": 458_053_760,
    "L_8": 458_594_816,
    "XL_2": 675_129_632,
    "XL_4": 675_074_432,
    "XL_8": 675_683_072,
}


@pytest.mark.parametrize("name", DIT)
def test_dit_counts(name):
    """The published total holds a table of 1000 classes and the null class, which is not part of our net."""
    config = getattr(dit, f"DIT_{name}")
    with torch.device("meta"):
        assert count(dit.DiT(config)) + 1001 * config.width == DIT[name]
    if name == "XL_2":
        with torch.device("meta"):
            assert count(dit.DiT(replace(config, size=64))) + 1001 * config.width == 676_014_368
            assert count(dit.DiT(replace(config, learn_sigma=False))) + 1001 * config.width == 675_111_184
