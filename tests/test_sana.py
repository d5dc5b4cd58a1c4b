"""Sana's net against diffusers 0.42.1: sizes, names, the same numbers from the same random weights; and what its parts promise."""

import json
from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F
from diffusers import SanaTransformer2DModel

from reverie.errors import UserError
from reverie.nets.blocks import attend
from reverie.nets.sana import SANA15_16B, SANA15_48B, SANA_06B, SANA_16B, Sana, SanaConfig, linear
from reverie.systems.names import given, taken
from reverie.systems.sana.transformer import config, layout, pointwise

NORM = {"qk_norm": "rms_norm_across_heads"}
FULL = {
    "0.6B": (
        591_747_872,
        548,
        SANA_06B,
        {"num_attention_heads": 36, "num_layers": 28, "num_cross_attention_heads": 16, "cross_attention_head_dim": 72}
        | {"cross_attention_dim": 1152},
    ),
    "1.6B": (1_604_462_752, 396, SANA_16B, {}),
    "1.5 1.6B": (1_604_641_952, 476, SANA15_16B, NORM),
    "1.5 4.8B": (4_721_825_952, 1396, SANA15_48B, {"num_layers": 60, **NORM}),
}
TINY = {
    **{"in_channels": 4, "out_channels": 4, "num_attention_heads": 4, "attention_head_dim": 8, "num_layers": 3},
    **{"num_cross_attention_heads": 2, "cross_attention_head_dim": 16, "cross_attention_dim": 32, "caption_channels": 12},
}
OWN = SanaConfig(in_channels=4, width=32, depth=2, heads=4, cross_heads=2, context_dim=12)


@pytest.fixture(autouse=True)
def _quiet():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.mark.parametrize("name", FULL)
def test_full_sizes_and_names(name):
    count, keys, preset, options = FULL[name]
    with torch.device("meta"):
        theirs = SanaTransformer2DModel(**options)
        ours = Sana(config(dict(theirs.config)))
    assert ours.config == preset
    assert sum(p.numel() for p in ours.parameters()) == count
    assert len(given(ours, theirs.state_dict(), layout, name)) == len(theirs.state_dict()) == keys


def pair(options):
    """Theirs with weights that all matter, and ours with the same."""
    theirs = SanaTransformer2DModel(**TINY | options).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(0.1 * torch.randn_like(p))
    ours = Sana(config(dict(theirs.config))).eval()
    ours.load_state_dict(given(ours, theirs.state_dict(), layout, "sana"))
    return theirs, ours


@pytest.mark.parametrize("options", [{}, NORM, {"patch_size": 2}, {"interpolation_scale": 2.0, "sample_size": 16}], ids=str)
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_the_same_numbers_and_back(options, masked):
    theirs, ours = pair(options)
    x, tokens, steps = torch.randn(2, 4, 8, 12), torch.randn(2, 7, 12), torch.tensor([3.0, 700.5])
    mask = torch.arange(7) < torch.tensor([[7], [3]]) if masked else None
    a = theirs(x, tokens, steps, encoder_attention_mask=mask).sample
    b = ours(x, steps, tokens=tokens, mask=mask)
    assert a.std() > 0.1
    assert (a - b).abs().max() < 1e-5 * a.abs().max()
    again = SanaTransformer2DModel(**TINY | options)
    again.load_state_dict(taken(ours, layout, pointwise))
    assert all(torch.equal(p, q) for p, q in zip(again.parameters(), theirs.parameters(), strict=True))


def test_linear_attention_is_attention_with_weights_of_products():
    """Equation (1) as a table of L x L weights rho(q_i) rho(k_j), each row divided by its sum."""
    q, k, v = torch.randn(3, 2, 2, 6, 4, dtype=torch.float64)
    weight = F.relu(q) @ F.relu(k).transpose(-1, -2)
    torch.testing.assert_close(linear(q, k, v), (weight / weight.sum(-1, keepdim=True).clamp_min(1e-15)) @ v)
    assert not torch.allclose(linear(q, k, v), attend(q, k, v), atol=1e-2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(linear(q, k, v), linear(q, k, v).double())


def test_samples_and_padding_do_not_matter():
    net = Sana(replace(OWN, qk_norm=True)).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    x, t, tokens = torch.randn(3, 4, 6, 4), 1000 * torch.rand(3), torch.randn(3, 5, 12)
    mask = torch.arange(5) < torch.tensor([[5], [2], [1]])
    whole = net(x, t, tokens=tokens, mask=mask)
    for k in range(3):
        row = slice(k, k + 1)
        alone = net(x[row], t[row], tokens=tokens[row], mask=mask[row])
        torch.testing.assert_close(alone[0], whole[k], atol=1e-5, rtol=1e-5)
    noisy = torch.where(mask[..., None], tokens, torch.full_like(tokens, 7.0))
    torch.testing.assert_close(net(x, t, tokens=noisy, mask=mask), whole)
    assert not torch.allclose(net(x, t, tokens=tokens), whole, atol=1e-3)


def test_every_parameter_learns():
    net = Sana(replace(OWN, qk_norm=True, span=4.0))
    optimiser = torch.optim.SGD(net.parameters(), lr=0.3)
    x, t, tokens = torch.randn(3, 4, 6, 4), 1000 * torch.rand(3), torch.randn(3, 5, 12)
    for _ in range(4):
        optimiser.zero_grad()
        (net(x, t, tokens=tokens) - torch.ones_like(x)).square().mean().backward()
        optimiser.step()
    silent = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_autocast_and_double():
    net = Sana(OWN).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
        x, t, tokens = torch.randn(2, 4, 4, 4), 1000 * torch.rand(2), torch.randn(2, 5, 12)
        exact = net(x, t, tokens=tokens)
        with torch.autocast("cpu", torch.bfloat16):
            rough = net(x, t, tokens=tokens)
        assert (rough.float() - exact).norm() < 0.05 * exact.norm()
        wide = net.double()(x.double(), t.double(), tokens=tokens.double())
        torch.testing.assert_close(wide.float(), exact, atol=1e-4, rtol=1e-4)


def test_what_does_not_fit_is_refused():
    theirs = dict(SanaTransformer2DModel(**TINY).config)
    for field, value in (("guidance_embeds", True), ("qk_norm", "layer_norm"), ("out_channels", 5), ("timestep_scale", 0.001)):
        with pytest.raises(UserError, match=field):
            config(theirs | {field: value})
    with pytest.raises(UserError, match="width 32"):
        config(theirs | {"cross_attention_dim": 40})
    net = Sana(OWN)
    x, t, tokens = torch.randn(2, 4, 4, 4), torch.rand(2), torch.randn(2, 5, 12)
    with pytest.raises(ValueError, match="tokens: this net needs a caption"):
        net(x, t)
    with pytest.raises(ValueError, match="vector"):
        net(x, t, tokens=tokens, vector=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="x: expected shape"):
        net(x[:, :3], t, tokens=tokens)
    with pytest.raises(ValueError, match="heads"):
        SanaConfig(width=30)


def test_config_survives_json():
    assert SanaConfig(**json.loads(json.dumps(asdict(SANA15_48B)))) == SANA15_48B
