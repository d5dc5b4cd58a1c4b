"""Pictures as prompts: silent at first, heard at every cross-attention, when and how strongly; in every way a net is asked."""

from dataclasses import dataclass, replace

import pytest
import torch
from test_control import NETS, awake, told

from reverie.adapt import Control, Controlled, ImagePrompt, ImagePrompted
from reverie.adapt.image_prompt import sites
from reverie.denoiser import Denoiser, OneByOne
from reverie.errors import UserError
from reverie.guide import cfg
from reverie.nets import looking
from reverie.nets.control import control_of
from reverie.nets.image_prompt import ImagePromptConfig, ImagePromptNet
from reverie.process import rules, schedules

HEARING = ("unet", "dit", "avatars", "pixart", "sana", "mmdit", "flux")
AT = {"avatars": "self", "mmdit": "joint", "flux": "joint"}
"""Where a picture is looked at; the others have attentions to text alone."""
T = torch.tensor([0.5, 0.7], dtype=torch.float64)


@dataclass(frozen=True)
class Colours:
    """What is seen of a picture: the mean of each colour."""

    def said(self, pictures, places):
        return pictures.mean((2, 3))

    def unsaid(self, pictures, places):
        return torch.zeros(len(pictures), 3)


@pytest.fixture(params=HEARING)
def made(request):
    """(model, adapter that is silent, x, condition with two pictures' tokens)."""
    torch.manual_seed(0)
    net = awake(NETS[request.param][1]()).eval().requires_grad_(False)
    model = Denoiser(net, schedules.flow(), rules.velocity())
    x, cond = torch.randn(2, net.config.in_channels, 8, 8), told(net, 2)
    at, widths = sites(model, x, cond)
    assert at == AT.get(request.param, "cross")
    vector = 0 if cond.vector is None else cond.vector.shape[1]
    config = ImagePromptConfig(embed=3, tokens=2, width=12, sites=widths, at=at, vector=vector)
    adapter = ImagePrompt(net=ImagePromptNet(config), eye=Colours())
    return model, adapter, x, replace(cond, images=adapter.tokens(torch.rand(2, 3, 5, 5) * 2 - 1))


def plain(cond):
    return replace(cond, images=None)


@torch.no_grad()
def test_silent_at_first_and_heard_at_every_site(made):
    model, adapter, x, cond = made
    base = model(x, T, plain(cond))
    prompted = ImagePrompted(model, [adapter])
    assert torch.equal(prompted(x, T, cond), base)
    assert torch.equal(prompted(x, T, plain(cond)), base), "where there is no picture the model itself is asked"
    assert len(adapter.net.v) == len(adapter.net.config.sites) >= 3
    for layer in adapter.net.v:
        torch.nn.init.normal_(layer.weight)
        one, other = (prompted(x, T, replace(cond, images=c)) for c in (cond.images, -cond.images))
        assert (one - base).abs().max() > 1e-4 and (one - other).abs().max() > 1e-4
        torch.nn.init.zeros_(layer.weight)
    if (word := adapter.net.word) is not None:
        awake(word)
        assert torch.equal(
            prompted(x, T, cond), model(x, T, replace(plain(cond), vector=cond.vector + word(cond.images, cond.vector)))
        )
        assert (prompted(x, T, cond) - base).abs().max() > 1e-4


@torch.no_grad()
def test_one_attention_is_equation_1(made):
    """At the first site, of one sample: y + w softmax(q k / sqrt E) v of its own keys and values."""
    model, adapter, x, cond = made
    for layer in adapter.net.v:
        torch.nn.init.normal_(layer.weight)
    seen = {}

    def look(site, attend, q, k, v, mask):
        y = attend(q, k, v, mask)
        if site.kind == adapter.net.config.at:
            seen.setdefault(site.index, (q[:, :, site.text :], y, site.text))
        return y

    with looking.looking(look):
        model(x, T, plain(cond))
    first, tokens = min(seen), cond.images
    q, y, text = seen[first]
    k, v = (layer(tokens).unflatten(-1, (q.shape[1], -1)).transpose(1, 2) for layer in (adapter.net.k[0], adapter.net.v[0]))
    expected = y.clone()
    expected[:, :, text:] += 0.5 * looking.weights(q, k) @ v
    inner = []

    def after(site, attend, q, k, v, mask):
        out = attend(q, k, v, mask)
        if site.index == first:
            inner.append(out)
        return out

    prompted = ImagePrompted(model, [replace(adapter, weight=0.5)])
    prompted.model = Watched(model, after)
    prompted(x, T, cond)
    torch.testing.assert_close(inner[0], expected, atol=1e-5, rtol=1e-4)


class Watched(Denoiser):
    """The model with somebody who looks in last, at what all others answer."""

    def __init__(self, model, look):
        super().__init__(model.net, model.path, model.rule, model.clock)
        self.look = look

    def raw(self, x, t, cond=None):
        with looking.looking(self.look):
            return super().raw(x, t, cond)


@torch.no_grad()
def test_weight_and_way(made):
    model, adapter, x, cond = made
    awake(adapter.net)
    base = model(x, T, plain(cond))

    def answer(**when):
        return ImagePrompted(model, [replace(adapter, **when)])(x, T, cond)

    full = answer()
    for silent in ({"weight": 0.0}, {"start": 0.6}, {"stop": 0.2}):
        assert torch.equal(answer(**silent), base)
    late = answer(start=0.4)  # the way is 1 - t: that of the first sample only
    assert torch.equal(late[1], base[1]) and torch.equal(late[0], full[0])
    assert (answer(weight=0.5) - full).abs().max() > 1e-4


@torch.no_grad()
def test_in_guidance_one_by_one_and_two_at_once(made):
    model, adapter, x, cond = made
    awake(adapter.net)
    prompted = ImagePrompted(model, [adapter])
    against = replace(cond, images=adapter.empty(torch.zeros(2, 3, 5, 5)))
    c, u = prompted(x, T, cond), prompted(x, T, against)
    torch.testing.assert_close(cfg(prompted, 3.0, against)(x, T, cond), u + 3 * (c - u), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(OneByOne(prompted)(x, T, cond), c, atol=1e-5, rtol=1e-4)
    both = ImagePrompted(model, [replace(adapter, weight=w) for w in (0.25, 0.75)])
    torch.testing.assert_close(both(x, T, replace(cond, images=cond.images.repeat(1, 2, 1))), c, atol=1e-4, rtol=1e-4)
    with pytest.raises(UserError, match="have 2 tokens, and their adapters read 4: give one picture for each"):
        both(x, T, cond)


def test_gradients_reach_the_adapter_and_nothing_else(made):
    model, adapter, x, cond = made
    awake(adapter.net)
    said = replace(cond, images=adapter.net(torch.rand(2, 3)))
    ImagePrompted(model, [adapter])(x, T, said).square().mean().backward()
    assert all(part.grad is not None and part.grad.any() for part in adapter.net.parameters())
    assert all(part.grad is None for part in model.parameters())


@torch.no_grad()
def test_a_control_beside_it_does_not_see_the_picture():
    """In either order: the control is asked as it is alone, and is heard with the picture."""
    torch.manual_seed(0)
    net = awake(NETS["unet"][1]()).eval()
    model = Denoiser(net, schedules.flow(), rules.velocity())
    x, cond = torch.randn(2, 4, 8, 8), told(net, 2)
    config = ImagePromptConfig(embed=3, tokens=2, width=12, sites=sites(model, x, cond)[1])
    adapter = ImagePrompt(net=awake(ImagePromptNet(config)), eye=Colours())
    control = Control(net=awake(control_of(net, 8)))
    said = []
    spread, control.net.spread = control.net.spread, lambda r: said.append(r) or spread(r)
    hints = (torch.rand(2, 3, 64, 64),)
    Controlled(model, [control])(x, T, replace(cond, hints=hints))
    both = replace(cond, hints=hints, images=torch.randn(2, 2, 12))
    one = ImagePrompted(Controlled(model, [control]), [adapter])(x, T, both)
    other = Controlled(ImagePrompted(model, [adapter]), [control])(x, T, both)
    assert torch.equal(one, other)
    assert all(torch.equal(a, b) for a, b in zip(said[0], said[1], strict=True))


def test_layers_cannot_be_left_out_beside_it(made):
    """The numbers of the attentions that follow would be others."""
    model, adapter, x, cond = made
    prompted = ImagePrompted(model, [adapter])
    with looking.looking(skips=(0,)), pytest.raises(UserError, match="no layers can be left out"):
        prompted(x, T, cond)
    with looking.looking(skips=(0,)):
        assert torch.equal(prompted(x, T, plain(cond)), model(x, T, plain(cond)))
        assert torch.equal(ImagePrompted(model, [replace(adapter, weight=0.0)])(x, T, cond), model(x, T, plain(cond)))
