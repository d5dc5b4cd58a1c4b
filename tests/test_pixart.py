"""PixArt's net against diffusers 0.42.1: sizes, names, the same numbers from the same random weights; and what it promises."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from diffusers import PixArtTransformer2DModel

from reverie.card import card_of, rebuild
from reverie.errors import UserError
from reverie.nets.pixart import PIXART_256, PIXART_512, PIXART_1024, PixArt, PixArtConfig
from reverie.systems.names import given, taken
from reverie.systems.pixart import transformer as pixart
from reverie.systems.weights import NETS


@pytest.fixture(autouse=True)
def _quiet():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def shaken(net):
    """The net with every trained parameter moved away from its first value, in evaluation mode."""
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    return net.eval()


def close(a, b):
    assert a.std() > 0.1
    return (a - b).abs().max() < 1e-5 * a.abs().max()


TINY = {
    **{"num_attention_heads": 2, "attention_head_dim": 24, "num_layers": 3, "cross_attention_dim": 48, "caption_channels": 12},
    **{"in_channels": 4, "out_channels": 8, "sample_size": 8},
}
PIXARTS = {
    512: (610_856_096, 603, PIXART_512, {"sample_size": 64}),
    256: (610_856_096, 603, PIXART_256, {"sample_size": 32}),
    1024: (611_349_152, 611, PIXART_1024, {"sample_size": 128}),
}


@pytest.mark.parametrize("name", PIXARTS)
def test_pixart_sizes_and_names(name):
    count, keys, preset, options = PIXARTS[name]
    with torch.device("meta"):
        theirs = PixArtTransformer2DModel(caption_channels=4096, **options)
        ours = PixArt(pixart.config(dict(theirs.config)))
    assert ours.config == preset
    assert sum(p.numel() for p in ours.parameters()) == count
    assert len(given(ours, theirs.state_dict(), pixart.layout, "pixart")) == len(theirs.state_dict()) == keys


@pytest.mark.parametrize(
    "options", [{}, {"use_additional_conditions": True}, {"interpolation_scale": 2, "out_channels": 4}], ids=str
)
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_pixart_numbers_and_back(options, masked):
    theirs = shaken(PixArtTransformer2DModel(**TINY | options))
    ours = PixArt(pixart.config(dict(theirs.config))).eval()
    ours.load_state_dict(given(ours, theirs.state_dict(), pixart.layout, "pixart"))
    x, tokens, steps = torch.randn(2, 4, 8, 12), torch.randn(2, 7, 12), torch.tensor([3, 700])
    mask = torch.arange(7) < torch.tensor([[7], [3]]) if masked else None
    told, vector = {"resolution": None, "aspect_ratio": None}, None
    if "use_additional_conditions" in options:
        sides = torch.tensor([[64.0, 96.0], [1024.0, 512.0]])
        told = {"resolution": sides, "aspect_ratio": sides[:, :1] / sides[:, 1:]}
        vector = torch.cat((sides, sides[:, :1] / sides[:, 1:]), 1)
    a = theirs(x, tokens, steps, added_cond_kwargs=told, encoder_attention_mask=mask).sample
    assert close(a, ours(x, steps.float(), tokens=tokens, mask=mask, vector=vector))
    again = PixArtTransformer2DModel(**TINY | options)
    again.load_state_dict(taken(ours, pixart.layout))
    assert all(torch.equal(p, q) for p, q in zip(again.parameters(), theirs.parameters(), strict=True))


OWN = PixArtConfig(width=48, depth=2, heads=2, context_dim=12, span=4.0, sizes=True)


def test_pixart_samples_and_padding_do_not_matter():
    net = shaken(PixArt(OWN))
    x, t, tokens, sizes = torch.randn(3, 4, 8, 4), 1000 * torch.rand(3), torch.randn(3, 5, 12), 1000 * torch.rand(3, 3)
    mask = torch.arange(5) < torch.tensor([[5], [2], [1]])
    together = net(x, t, tokens=tokens, mask=mask, vector=sizes)
    for k in range(3):
        row = slice(k, k + 1)
        alone = net(x[row], t[row], tokens=tokens[row], mask=mask[row], vector=sizes[row])
        torch.testing.assert_close(alone[0], together[k], atol=1e-5, rtol=1e-5)
    noisy = torch.where(mask[..., None], tokens, torch.full_like(tokens, 7.0))
    torch.testing.assert_close(net(x, t, tokens=noisy, mask=mask, vector=sizes), together)
    assert not torch.allclose(net(x, t, tokens=tokens, vector=sizes), together, atol=1e-3)


def test_pixart_learns_with_every_parameter():
    net = PixArt(OWN)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.3)
    x, t, tokens, sizes = torch.randn(3, 4, 8, 4), 1000 * torch.rand(3), torch.randn(3, 5, 12), 1000 * torch.rand(3, 3)
    assert not net(x, t, tokens=tokens, vector=sizes).any()  # it begins silent
    for _ in range(4):
        optimiser.zero_grad()
        (net(x, t, tokens=tokens, vector=sizes) - 1).square().mean().backward()
        optimiser.step()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_pixart_refuses():
    net, small = PixArt(OWN), PixArt(replace(OWN, sizes=False))
    x, t, tokens, sizes = torch.randn(2, 4, 8, 4), torch.rand(2), torch.randn(2, 5, 12), torch.ones(2, 3)
    for call, match in (
        (lambda: net(x, t, tokens=tokens), "vector: this net asks for height, width"),
        (lambda: net(x, t, tokens=tokens, vector=sizes[:, :2]), "vector: expected shape"),
        (lambda: small(x, t, tokens=tokens, vector=sizes), "vector: this net is told no sizes"),
        (lambda: small(x, t), "needs a caption"),
        (lambda: small(x[..., :3], t, tokens=tokens), "multiples of 2"),
        (lambda: PixArtConfig(width=50), "multiple of 4"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    said = dict(PixArtTransformer2DModel(**TINY).config)
    for field, value in (("norm_eps", 1e-5), ("caption_channels", None), ("out_channels", 5), ("attention_type", "gated")):
        with pytest.raises(UserError, match=field):
            pixart.config(said | {field: value})


def test_config_survives():
    assert PixArtConfig(**json.loads(json.dumps(asdict(PIXART_1024)))) == PIXART_1024
    assert rebuild(json.loads(json.dumps(card_of(PIXART_1024))), NETS) == PIXART_1024
