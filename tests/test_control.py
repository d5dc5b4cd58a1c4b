"""Controls of every family of nets: silent at first, then heard; when, where and how strongly; in every way a net is asked."""

from dataclasses import replace

import pytest
import torch

from reverie.adapt import Control, Controlled
from reverie.denoiser import Cond, Denoiser, OneByOne
from reverie.errors import UserError
from reverie.guide import cfg
from reverie.nets.control import control_of, widths_for
from reverie.nets.control_transformer import ControlTransformer, ControlTransformerConfig, control_transformer_of
from reverie.nets.dit import DiT, DiTConfig
from reverie.nets.mmdit import MMDiT, MMDiTConfig
from reverie.nets.pixart import PixArt, PixArtConfig
from reverie.nets.sana import Sana, SanaConfig
from reverie.nets.unet import UNet, UNetConfig
from reverie.process import rules, schedules
from reverie.rng import Rng
from reverie.solve import sample
from reverie.solve.table import ROWS

WIDE = {"in_channels": 4, "width": 32, "context_dim": 12}
UNET = UNetConfig(in_channels=4, out_channels=4, channels=16, mult=(1, 2), blocks=1, groups=8, head_width=8, context_dim=12)
NETS = {  # each with the pixels that a place of x stands for
    "unet": (8, lambda: UNet(UNET)),
    "pixels": (1, lambda: UNet(UNetConfig(channels=16, mult=(1, 2), blocks=1, groups=8, patch=2, biggan=True, scale_shift=True))),
    "dit": (8, lambda: DiT(DiTConfig(**WIDE, size=8, depth=3, heads=2, learn_sigma=False))),
    "avatars": (1, lambda: DiT(DiTConfig(in_channels=3, size=32, patch=4, width=32, depth=3, heads=2, learn_sigma=False))),
    "pixart": (8, lambda: PixArt(PixArtConfig(**WIDE, depth=3, heads=2, learn_sigma=False))),
    "sana": (4, lambda: Sana(SanaConfig(**WIDE, depth=3, heads=2, cross_heads=2))),
    "mmdit": (8, lambda: MMDiT(MMDiTConfig(**WIDE, heads=2, depth=3, size=4, table=4, dual=1))),
    "flux": (8, lambda: MMDiT(MMDiTConfig(**WIDE, heads=2, depth=2, single=2, axes=(4, 6, 6), packed=True))),
}


def copied(net, factor):
    if isinstance(net, UNet):
        return control_of(net, factor)
    return control_transformer_of(net, single=net.config.single if isinstance(net, MMDiT) else 0, factor=factor)


def awake(net):
    for part in net.parameters():
        if not part.any():
            torch.nn.init.normal_(part, std=0.1)
    return net


def told(net, batch):
    c = net.config
    vector = torch.randn(batch, c.width) if isinstance(net, DiT) and c.context_dim is None else None
    tokens = None if getattr(c, "context_dim", None) is None else torch.randn(batch, 5, 12)
    return Cond(vector=vector, tokens=tokens)


@pytest.fixture(params=NETS)
def made(request):
    """(model, control that is silent, x, condition with a picture)."""
    torch.manual_seed(0)
    factor, make = NETS[request.param]
    net = awake(make()).eval().requires_grad_(False)
    model = Denoiser(net, schedules.flow(), rules.velocity(), sigma_data=0.5)
    side = 32 if factor == 1 else 8
    x = torch.randn(2, net.config.in_channels, side, side)
    cond = replace(told(net, 2), hints=(torch.rand(2, 3, factor * side, factor * side) * 2 - 1,))
    return model, copied(net, factor), x, cond


T = torch.tensor([0.5, 0.7], dtype=torch.float64)


def plain(cond):
    return replace(cond, hints=None)


@torch.no_grad()
def test_a_control_is_silent_at_first_bit_for_bit(made):
    model, net, x, cond = made
    assert torch.equal(Controlled(model, [Control(net=net)])(x, T, cond), model(x, T, plain(cond)))
    before = Controlled(model, [Control(net=awake(net).eval())])(x, T, cond)
    assert (before - model(x, T, plain(cond))).abs().max() > 1e-3, "and heard when it is not"


@torch.no_grad()
def test_it_is_a_copy_and_every_layer_that_is_silent_speaks(made):
    model, net, x, cond = made
    own, theirs = net.body.state_dict(), model.net.state_dict()
    assert own and all(torch.equal(v, theirs[k]) for k, v in own.items())
    base = model(x, T, plain(cond))
    torch.nn.init.normal_(list(net.silence())[-1].weight, std=0.1)  # what hears the picture
    layers = list(net.silence())[:-1]
    assert layers
    for layer in layers:
        torch.nn.init.normal_(layer.weight, std=0.1)
        one, other = (
            Controlled(model, [Control(net=net)])(x, T, replace(cond, hints=(h,))) for h in (cond.hints[0], -cond.hints[0])
        )
        assert (one - base).abs().max() > 1e-5 and (one - other).abs().max() > 1e-6
        torch.nn.init.zeros_(layer.weight)


def test_gradients_reach_the_control_and_nothing_else(made):
    model, net, x, cond = made
    net.train()
    controlled = Controlled(model, [Control(net=net)])
    controlled.halves(x, T, cond)[0].square().mean().backward()
    reached = {name for name, part in net.named_parameters() if part.grad is not None and part.grad.any()}
    assert all(any(layer.weight is dict(net.named_parameters())[n] for n in reached) for layer in list(net.silence())[:-1])
    assert all(part.grad is None for part in model.parameters())
    awake(net).zero_grad()
    controlled.halves(x, T, cond)[0].square().mean().backward()
    lost = [n for n, part in net.named_parameters() if part.requires_grad and (part.grad is None or not part.grad.any())]
    assert all(".cross" in n or ".text" in n or n.endswith((".k.bias", ".norm_k.weight")) for n in lost), lost


@torch.no_grad()
def test_weight_and_way(made):
    """Where it does not act it costs nothing, and changes no bit; a sample's own t decides."""
    model, net, x, cond = made
    awake(net).eval().requires_grad_(False)
    calls = []
    net.register_forward_hook(lambda *_: calls.append(1))
    asked, net.answered = net.answered, lambda *a, **k: calls.append(len(a[0])) or asked(*a, **k)
    base = model(x, T, plain(cond))

    def answer(**when):
        calls.clear()
        return Controlled(model, [Control(net=net, **when)])(x, T, cond)

    full = answer()
    assert calls == [2]
    for silent in ({"weight": 0.0}, {"start": 0.6}, {"stop": 0.2}):
        assert torch.equal(answer(**silent), base) and not calls
    assert torch.equal(answer(start=0.25, stop=0.5), full) and calls == [2]
    late = answer(start=0.4)  # the way is 1 - t: that of the first sample only
    assert calls == [1] and torch.equal(late[1], base[1])
    torch.testing.assert_close(late[0], full[0], atol=1e-5, rtol=1e-4)
    half = answer(weight=0.5)
    assert (half - base).abs().max() > 1e-4 and (half - full).abs().max() > 1e-4


@torch.no_grad()
def test_in_guidance_one_by_one_and_twice(made):
    model, net, x, cond = made
    controlled = Controlled(model, [Control(net=awake(net).eval().requires_grad_(False))])
    against = replace(cond, tokens=None if cond.tokens is None else -cond.tokens)
    against = replace(against, vector=None if cond.vector is None else -cond.vector)
    u, c = controlled(x, T, against), controlled(x, T, cond)
    torch.testing.assert_close(cfg(controlled, 3.0, against)(x, T, cond), u + 3 * (c - u), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(OneByOne(controlled)(x, T, cond), c, atol=1e-5, rtol=1e-4)
    assert torch.equal(OneByOne(controlled)(x[:1], T[:1], cond[:1])[0], OneByOne(controlled)(x, T, cond)[0])
    two = Controlled(model, [Control(net=net, weight=w) for w in (0.25, 0.75)])(x, T, replace(cond, hints=cond.hints * 2))
    torch.testing.assert_close(two, c, atol=1e-4, rtol=1e-4)
    nested = Controlled(Controlled(model, [Control(net=net, weight=0.25)]), [Control(net=net, weight=0.75)])
    with pytest.raises(UserError, match="1 controls hear 2 pictures"):
        nested(x, T, replace(cond, hints=cond.hints * 2))


@torch.no_grad()
def test_a_mask_says_where(made):
    model, net, x, cond = made
    awake(net).eval()
    whole = Controlled(model, [Control(net=net)])(x, T, cond)
    assert torch.equal(Controlled(model, [Control(net=net, mask=torch.ones(7, 9))])(x, T, cond), whole)
    mask = torch.zeros(16, 16)
    mask[:, :8] = 1
    bare = model.told(x, T, plain(cond))
    said = [r * 1.0 for r in net(bare[0], bare[1], cond.hints[0], **bare[2])]
    seen = []
    net.spread, spread = lambda r: seen.append(r) or spread(r), net.spread
    Controlled(model, [Control(net=net, mask=mask)])(x, T, cond)
    side = x.shape[2] // net.config.body.patch
    for r, before in zip(seen[0], said, strict=True):
        grid, old = (v.mT.unflatten(2, (side, side)) if v.ndim == 3 else v for v in (r, before))
        half = grid.shape[3] // 2
        assert not grid[..., half:].any() and torch.allclose(grid[..., :half], old[..., :half], atol=1e-5)


def test_what_is_wrong_is_said(made):
    model, net, x, cond = made
    controlled = Controlled(model, [Control(net=net, name="canny")])
    hint = cond.hints[0]
    for wrong, said in (
        (
            hint[:, :, :-8],
            f"canny has {hint.shape[3]}x{hint.shape[2] - 8} pixels, and the one asked for {hint.shape[3]}x{hint.shape[2]}",
        ),
        (hint[:, :1], "canny has 1 channels, and it hears 3"),
    ):
        with pytest.raises(UserError, match=said):
            controlled(x, T, replace(cond, hints=(wrong,)))
    with pytest.raises(UserError, match="1 controls hear 0 pictures"):
        controlled(x, T, plain(cond))
    for wrong, said in (
        ({"mask": torch.zeros(4, 4)}, "empty"),
        ({"mask": torch.ones(1, 4, 4)}, "height, width"),
        ({"start": 0.6, "stop": 0.4}, "shares of the way"),
        ({"weight": float("nan")}, "weight"),
    ):
        with pytest.raises(UserError, match=said):
            Control(net=net, **wrong)


@torch.no_grad()
def test_what_is_heard_is_kept_while_nothing_is_learnt(made):
    model, net, x, cond = made
    awake(net).eval().requires_grad_(False)
    control, calls = Control(net=net), []
    hear, net.heard = net.heard, lambda h: calls.append(len(h)) or hear(h)
    controlled = Controlled(model, [control])
    first = controlled(x, T, cond)
    assert torch.equal(controlled(x, T, cond), first) and calls == [1, 1], "each picture once"
    with torch.enable_grad():
        net.hint.requires_grad_(True)
        controlled(x, T, cond)
    assert calls == [1, 1, 2]
    net.hint.requires_grad_(False)
    next(net.hint.parameters()).mul_(2)
    assert (controlled(x, T, cond) - first).abs().max() > 1e-6, "other weights hear anew"


@torch.no_grad()
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_solver(row):
    torch.manual_seed(0)
    learnt = row.name == "ddpm-learned"
    net = awake(UNet(replace(UNET, out_channels=8 if learnt else 4))).eval().requires_grad_(False)
    model = Denoiser(net, schedules.cosine(), rules.v(), learned_variance=learnt, bound=1.0)
    control = Control(net=awake(control_of(net, 8)).eval().requires_grad_(False))
    cond = Cond(tokens=torch.randn(1, 5, 12))
    times = [0.05, 0.0] if row.family == "adaptive" else [0.9, 0.45, 0.0]  # which takes hundreds of steps
    x, grid = torch.randn(1, 4, 8, 8), torch.tensor(times, dtype=torch.float64)
    draw = [
        sample(m, x, grid, row.make(), cond=c, rng=Rng.of(1))
        for m, c in ((model, cond), (Controlled(model, [control]), replace(cond, hints=(torch.rand(1, 3, 64, 64),))))
    ]
    assert draw[1].isfinite().all() and (draw[0] - draw[1]).abs().max() > 1e-3


def test_spread():
    body = MMDiTConfig(**WIDE, heads=2, depth=7, single=5, axes=(4, 6, 6))
    said = [torch.full((1, 4, 32), float(k)) for k in range(5)]

    def numbers(**options):
        return [float(r.mean()) for r in ControlTransformer(ControlTransformerConfig(body=body, **options)).spread(said)]

    assert numbers(blocks=3, single=2, spread="groups") == [0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 4, 4]
    assert numbers(blocks=3, single=2, spread="first") == [0, 1, 2, 0, 0, 0, 0, 3, 4]
    body = replace(body, single=0, axes=None)
    assert numbers(blocks=5, spread="even") == [0, 0, 1, 2, 2, 3], "none after the last, from which no text comes"


def test_widths():
    assert [widths_for(n) for n in (1, 2, 8, 32)] == [(16, 32), (16, 32), (16, 32, 96, 256), (16, 32, 96, 256, 256, 256)]
    with pytest.raises(ValueError, match="power of 2"):
        widths_for(6)
