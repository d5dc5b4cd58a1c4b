"""One way to look into every backbone: sites, answers, layers left out, and what is added after them."""

import pytest
import torch

from reverie.denoiser import Cond, Denoiser
from reverie.nets import looking
from reverie.nets.dit import DiT, DiTConfig
from reverie.nets.mmdit import MMDiT, MMDiTConfig
from reverie.nets.pixart import PixArt, PixArtConfig
from reverie.nets.sana import Sana, SanaConfig
from reverie.nets.unet import UNet, UNetConfig
from reverie.process import rules, schedules

WIDE = {"in_channels": 4, "width": 32, "context_dim": 12}
NETS = {
    "unet": lambda: UNet(
        UNetConfig(in_channels=4, out_channels=4, channels=16, mult=(1, 2), blocks=1, groups=8, head_width=8, context_dim=12)
    ),
    "dit": lambda: DiT(DiTConfig(**WIDE, size=8, depth=3, heads=2, learn_sigma=False)),
    "mmdit": lambda: MMDiT(MMDiTConfig(**WIDE, heads=2, depth=3, size=4, table=4, dual=1)),
    "flux": lambda: MMDiT(MMDiTConfig(**WIDE, heads=2, depth=2, single=2, axes=(4, 6, 6), packed=True)),
    "pixart": lambda: PixArt(PixArtConfig(**WIDE, depth=3, heads=2, sizes=False, learn_sigma=False)),
    "sana": lambda: Sana(SanaConfig(**WIDE, depth=3, heads=2, cross_heads=2)),
}
SITES = {  # kinds of the attentions of one evaluation
    "unet": ["self", "cross"] * 4,
    "dit": ["self", "cross"] * 3,
    "mmdit": ["joint", "self", "joint", "joint"],
    "flux": ["joint"] * 4,
    "pixart": ["self", "cross"] * 3,
    "sana": ["self", "cross"] * 3,
}
LAYERS = {"unet": 4, "dit": 3, "mmdit": 3, "flux": 4, "pixart": 3, "sana": 3}


@pytest.fixture(params=NETS)
def made(request):
    """(name, denoiser, x, condition) of a net in which nothing starts at zero."""
    torch.manual_seed(0)
    net = NETS[request.param]()
    for part in net.parameters():
        if not part.any():
            torch.nn.init.normal_(part, std=0.1)
    model = Denoiser(net.eval().requires_grad_(False), schedules.flow(), rules.velocity())
    return request.param, model, torch.randn(2, 4, 8, 8), Cond(tokens=torch.randn(2, 5, 12))


def seen(model, x, cond, *looks, skips=()):
    with looking.looking(*looks, skips=skips):
        return model(x, torch.tensor(0.5), cond)


def test_who_only_looks_changes_no_bit_and_sees_every_attention_of_each_evaluation(made):
    name, model, x, cond = made
    sites = []

    def look(site, attend, q, k, v, mask):
        sites.append(site)
        return attend(q, k, v, mask)

    plain = model(x, torch.tensor(0.5), cond)
    assert torch.equal(seen(model, x, cond, look), plain)
    assert torch.equal(model(x, torch.tensor(0.5), cond), plain), "who looked in is gone again"
    assert [s.kind for s in sites] == SITES[name]
    assert [s.index for s in sites] == list(range(len(sites)))
    assert {s.text for s in sites if s.kind == "joint"} <= {5}
    with looking.looking(look):
        sites.clear()
        model(x, torch.tensor(0.5), cond)
        model(x, torch.tensor(0.5), cond)
    assert [s.index for s in sites] == 2 * list(range(len(SITES[name]))), "each evaluation counts anew"


def test_the_last_look_is_asked_first_and_may_ask_the_others(made):
    _, model, x, cond = made
    order = []

    def outer(site, attend, q, k, v, mask):
        order.append("outer")
        return 2 * attend(q, k, v, mask)

    def inner(site, attend, q, k, v, mask):
        order.append("inner")
        return attend(q, k, v, mask) / 2

    assert torch.equal(seen(model, x, cond, inner, outer), model(x, torch.tensor(0.5), cond))  # a power of two: no bit is lost
    assert order[:2] == ["outer", "inner"]
    with looking.looking(inner):
        nested = seen(model, x, cond, outer)
    assert torch.equal(nested, model(x, torch.tensor(0.5), cond))


def test_weights_are_those_that_attention_uses(made):
    _, model, x, cond = made

    def look(site, attend, q, k, v, mask):
        return looking.weights(q, k, mask) @ v if site.softmax else attend(q, k, v, mask)

    torch.testing.assert_close(seen(model, x, cond, look), model(x, torch.tensor(0.5), cond), atol=1e-5, rtol=1e-4)


def test_every_site_counts(made):
    name, model, x, cond = made
    plain = model(x, torch.tensor(0.5), cond)
    for index in range(len(SITES[name])):

        def silent(site, attend, q, k, v, mask, index=index):
            return torch.zeros_like(q) if site.index == index else attend(q, k, v, mask)

        assert (seen(model, x, cond, silent) - plain).abs().max() > 1e-4, index


def test_every_layer_can_be_left_out(made):
    name, model, x, cond = made
    plain = model(x, torch.tensor(0.5), cond)
    for layer in range(LAYERS[name]):
        assert (seen(model, x, cond, skips=[layer]) - plain).abs().max() > 1e-4, layer
    assert torch.equal(seen(model, x, cond, skips=[LAYERS[name]]), plain), "there is no such layer"


def test_residuals_are_added_after_each_block(made):
    name, model, x, cond = made
    if name == "unet":
        return  # whose residuals belong to its skips: tests/test_nets.py
    places = 64 if name == "sana" else 16
    plain, nothing = model(x, torch.tensor(0.5), cond), [torch.zeros(2, places, 32) for _ in range(LAYERS[name])]

    some = torch.randn(32)  # what is the same everywhere is taken out by the next norm

    def told(residuals):
        return model(x, torch.tensor(0.5), Cond(tokens=cond.tokens, residuals=tuple(residuals)))

    assert torch.equal(told(nothing), plain)
    for k in range(len(nothing)):
        assert (told([r + (i == k) * some for i, r in enumerate(nothing)][: k + 1]) - plain).abs().max() > 1e-4, k
    with pytest.raises(ValueError, match=f"residuals: expected at most {len(nothing)}"):
        told([*nothing, nothing[0]])
    with pytest.raises(ValueError, match=r"residuals\[0\]: expected shape"):
        told([nothing[0][:, 1:]])


def test_what_no_adapter_heard_is_an_error(made):
    _, model, x, cond = made
    with pytest.raises(ValueError, match="hints in the condition of a net without an adapter"):
        model(x, torch.tensor(0.5), Cond(tokens=cond.tokens, hints=(torch.zeros(2, 3, 8, 8),)))
