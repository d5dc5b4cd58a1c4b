"""Guides: what each adds to u + w (c - u), what it refuses, and how it is written."""

import pytest
import torch
from test_looking import LAYERS, NETS, SITES

from reverie.card import parse, rebuild
from reverie.denoiser import Cond, Denoiser, OneByOne
from reverie.errors import UserError
from reverie.guide import (
    GUIDES,
    Asked,
    Guided,
    apg,
    autoguide,
    cfg,
    clamp,
    classifier,
    guided,
    interval,
    pag,
    rescale,
    slg,
    threshold,
)
from reverie.guide.finishes import quantile
from reverie.guide.guidance import adding
from reverie.nets import looking
from reverie.process import grids, rules, schedules
from reverie.rng import Rng
from reverie.solve import Ancestral, sample

F64 = torch.float64
PATH = schedules.flow()
T3 = torch.tensor(0.3, dtype=F64)
X = Rng.of(0, 3, dtype=F64).normal((3, 2, 4, 4))
YES, NO = Cond(vector=torch.tensor([[1.0], [2.0], [3.0]], dtype=F64)), Cond(vector=torch.full((3, 1), -1.0, dtype=F64))
GRID = grids.uniform()(PATH, 10)


class Linear:
    """x0 = (1 - t) x + the condition; it counts its calls and the rows it was shown."""

    def __init__(self, path=PATH, gain=1.0):
        self.path, self.gain, self.calls, self.rows = path, gain, 0, 0

    def __call__(self, x, t, cond=None):
        self.calls, self.rows = self.calls + 1, self.rows + len(x)
        t = torch.as_tensor(t, dtype=F64).expand(len(x)).reshape(-1, 1, 1, 1)
        return self.gain * (1 - t) * x + (0 if cond is None else cond.vector[:, :, None, None])


def made(model, scale, *guides, negative=NO, grid=GRID, said=("a", "b", "c")):
    return guided(Asked(plain=model, scale=scale, negative=negative, grid=grid, said=said, cond=YES), guides)


def wish(text):
    return rebuild(parse(text), GUIDES, "guide")


@pytest.mark.parametrize("w", [-1.0, 0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("t", [T3, torch.tensor([0.1, 0.5, 0.9], dtype=F64)])
def test_scale_is_u_plus_w_times_c_minus_u(w, t):
    c, u = Linear()(X, t, YES), Linear()(X, t, NO)
    for model in (cfg(Linear(), w, NO), made(Linear(), w)):
        assert torch.allclose(model(X, t, YES), u + w * (c - u), rtol=0, atol=1e-14)


def test_scale_0_ignores_the_prompt_and_scale_1_is_the_plain_model():
    model = Linear()
    assert torch.equal(cfg(model, 0.0, NO)(X, T3, YES), Linear()(X, 0.3, NO))
    assert cfg(model, 1, NO) is model and made(model, 1.0) is model and made(model, 1.0, negative=None) is model


def test_both_are_evaluated_in_one_batch():
    model = Linear()
    cfg(model, 4.0, NO)(X, T3, YES)
    assert (model.calls, model.rows) == (1, 6)


def test_token_rows_of_other_lengths_share_the_batch():
    seen = []

    class Tokens(Linear):
        def __call__(self, x, t, cond=None):
            seen.append(cond)
            return cond.tokens.masked_fill(~cond.mask[..., None], 0).sum((1, 2))[:, None, None, None] + 0 * x

    long, short = Cond(tokens=torch.ones(3, 5, 2, dtype=F64)), Cond(tokens=torch.ones(3, 1, 2, dtype=F64))
    out = cfg(Tokens(), 2.0, short)(X, T3, long)
    assert seen[0].tokens.shape == (6, 5, 2) and seen[0].mask.sum(1).tolist() == [5, 5, 5, 1, 1, 1]
    assert torch.equal(out, torch.full_like(X, 2 + 2 * (10 - 2)))


def test_conditions_of_different_kinds_do_not_mix():
    with pytest.raises(ValueError, match="different rooms"):
        cfg(Linear(), 2.0, Cond(tokens=torch.ones(3, 1, 2)))(X, T3, YES)


def test_a_negative_prompt_pushes_away():
    towards = cfg(Linear(), 3.0, NO)(X, T3, YES) - Linear()(X, 0.3, YES)
    assert torch.allclose(towards, 2 * (YES.vector - NO.vector)[:, :, None, None].expand_as(X))
    for refused in (lambda: cfg(Linear(), 3.0, None), lambda: made(Linear(), 3.0, negative=None)):
        with pytest.raises(UserError, match="negative"):
            refused()
    with pytest.raises(UserError, match="negative"):
        made(Linear(), 1.0, wish("cfg_plus()"), negative=None)


def test_a_worse_model_is_pushed_away_from():
    model, weak = Linear(), Linear(gain=0.5)
    out = made(model, 1.0, autoguide(weak, 2.0))(X, T3, YES)
    assert torch.allclose(out, 1.5 * 0.7 * X + YES.vector[:, :, None, None])
    assert (model.calls, weak.calls) == (1, 1)
    both = made(model := Linear(), 3.0, autoguide(weak, 2.0))(X, T3, YES)  # the two pushes add up
    assert torch.allclose(both, out + 2 * (YES.vector - NO.vector)[:, :, None, None]) and model.rows == 6
    with pytest.raises(UserError, match="another process"):
        made(Linear(), 1.0, autoguide(Linear(schedules.cosine())))
    with pytest.raises(UserError, match="give a model"):
        autoguide(3)


def test_outside_its_interval_guidance_costs_nothing():
    model = Linear()
    inside = made(model, 3.0, interval(0.3, 0.65))
    for t, rows in ((0.9, 3), (0.65, 6), (0.5, 6), (0.3, 6), (0.1, 3)):
        model.rows = 0
        out = inside(X, torch.tensor(t, dtype=F64), YES)
        assert model.rows == rows
        truth = cfg(Linear(), 3.0 if rows == 6 else 1.0, NO)(X, torch.tensor(t, dtype=F64), YES)
        assert torch.equal(out, truth)
    model.rows = 0
    sample(inside, X, GRID, Ancestral(0.0), cond=YES)
    assert model.rows == 3 * (10 + 4)  # t = .6, .5, .4, .3
    mixed = inside(X, torch.tensor([0.9, 0.5, 0.1], dtype=F64), YES)
    assert torch.allclose(mixed[1:2], cfg(Linear(), 3.0, NO[1:2])(X[1:2], torch.tensor(0.5, dtype=F64), YES[1:2]))
    assert torch.equal(mixed[0:1], Linear()(X[0:1], 0.9, YES[0:1]))
    with pytest.raises(UserError, match="interval"):
        interval(0.7, 0.2)


def test_what_is_done_to_the_result_stays_in_the_interval_too():
    parts = interval(0.3, 0.65), clamp(0.1), wish("temperature(tau=0.5)"), autoguide(weak := Linear(gain=0.5), 3.0)
    for guides in (parts, parts[::-1]):
        model = made(Linear(), 3.0, *guides)
        mixed = model(X, torch.tensor([0.9, 0.5, 0.1], dtype=F64), YES)
        plain = Linear()(X, torch.tensor([0.9, 0.5, 0.1], dtype=F64), YES)
        assert torch.equal(mixed[[0, 2]], plain[[0, 2]]) and not torch.allclose(mixed[1], plain[1])
        before = weak.calls
        model(X, torch.tensor(0.9, dtype=F64), YES)
        assert weak.calls == before


@pytest.mark.parametrize("phi", [0.0, 0.4, 1.0])
def test_rescaling_moves_the_deviation_towards_the_conditional_one(phi):
    class Contrast(Linear):
        def __call__(self, x, t, cond=None):
            return x * cond.vector[:, :, None, None]

    plain, changed = made(Contrast(), 5.0)(X, T3, YES), made(Contrast(), 5.0, rescale(phi))(X, T3, YES)
    c = Contrast()(X, T3, YES)
    deviation = phi * c.flatten(1).std(1) + (1 - phi) * plain.flatten(1).std(1)
    assert torch.allclose(changed.flatten(1).std(1), deviation)
    assert torch.allclose(changed / plain, (changed / plain)[:, :1, :1, :1].expand_as(X))  # a scale, nothing else
    assert torch.equal(made(Contrast(), 1.0, rescale(phi))(X, T3, YES), c)


class Fixed:
    """A model whose estimate is given."""

    def __init__(self, value):
        self.path, self.value = PATH, value

    def __call__(self, x, t, cond=None):
        return self.value


def finished(guide, value):
    return made(Fixed(value), 1.0, guide, said=("",) * len(value))(value, T3)


def test_thresholding_saturates_only_what_leaves_the_range():
    small = X / X.abs().max()
    assert torch.equal(finished(threshold(), small), small) and torch.equal(finished(clamp(), small), small)
    rows = torch.linspace(-4, 4, 101, dtype=F64).expand(2, 101) * torch.tensor([[0.2], [1.0]], dtype=F64)
    out = finished(threshold(0.9), rows)
    reach = float(rows[1].abs().quantile(0.9))
    assert torch.equal(out[0], rows[0])
    assert torch.allclose(out[1], rows[1].clamp(-reach, reach) / reach, atol=1e-6)
    assert float(out.abs().max()) == 1
    assert torch.allclose(finished(threshold(0.9, 2.0), rows)[1], rows[1].clamp(-reach, reach) / reach * 2, atol=1e-6)
    assert torch.equal(finished(clamp(2.0), rows), rows.clamp(-2, 2))


def test_thresholding_takes_pictures_of_any_size():
    large = torch.linspace(0, 2, 2**24 + 3).reshape(1, 1, -1, 1)
    assert float(finished(threshold(0.5), large).max()) == 1
    assert torch.allclose(quantile(X.flatten(1), 0.3), X.flatten(1).quantile(0.3, 1))
    assert torch.equal(quantile(X.flatten(1), 1.0), X.flatten(1).amax(1))


def test_a_guided_variance_costs_no_third_evaluation():
    class Learned(Linear):
        def with_variance(self, x, t, cond=None):
            mean = self(x, t, cond)
            return mean, mean / 2

    for both in (cfg(model := Learned(), 3.0, NO), made(model, 3.0)):
        mean, variance = both.with_variance(X, T3, YES)
        assert torch.equal(mean, cfg(Linear(), 3.0, NO)(X, T3, YES)) and torch.equal(variance, Linear()(X, T3, YES) / 2)
    assert model.rows == 2 * 6
    model, weak = Learned(), Linear(gain=0.5)
    mean, variance = made(model, 1.0, autoguide(weak, 2.0)).with_variance(X, T3, YES)
    assert torch.equal(mean, made(Linear(), 1.0, autoguide(weak, 2.0))(X, T3, YES)) and model.rows == 3
    assert torch.equal(variance, Linear()(X, T3, YES) / 2)
    model.rows = 0
    outside = made(model, 3.0, interval(0.5, 0.6), autoguide(weak, 2.0)).with_variance(X, T3, YES)
    assert torch.equal(outside[0], Linear()(X, T3, YES)) and model.rows == 3


def test_changes_of_one_kind_follow_one_another():
    order = []

    def change(name):
        return lambda at, v: order.append(name) or v

    guides = adding(finish=change("first")), adding(steers=change("step")), adding(finish=change("second"))
    made(Linear(), 2.0, *guides)(X, T3, YES)
    assert order == ["step", "first", "second"]


@pytest.fixture(params=NETS)
def net(request):
    """(name, denoiser, x, cond, empty) of a net in which nothing starts at zero."""
    torch.manual_seed(0)
    made = NETS[request.param]()
    for part in made.parameters():
        if not part.any():
            torch.nn.init.normal_(part, std=0.1)
    model = Denoiser(made.eval().requires_grad_(False), PATH, rules.velocity())
    return request.param, model, torch.randn(3, 4, 8, 8), Cond(tokens=torch.randn(3, 5, 12)), Cond(tokens=torch.zeros(3, 5, 12))


def over(model, scale, cond, empty, *guides):
    return guided(Asked(plain=model, scale=scale, negative=empty, grid=GRID, said=("a",) * 3, cond=cond), guides)


def test_perturbed_attention_is_the_identity_where_it_is_asked(net):
    name, model, x, cond, empty = net
    sites = [k for k, kind in enumerate(SITES[name]) if kind != "cross"]
    c = model(x, T3, cond)
    for site in sites:

        def alone(at, attend, q, k, v, mask, site=site):  # each row of the picture by itself, beside the words
            if at.index != site:
                return attend(q, k, v, mask)
            if at.kind == "self":
                return v
            words = [attend(q[:, :, [i]], k[:, :, [*range(at.text), i]], v[:, :, [*range(at.text), i]], None)
                     for i in range(at.text, q.shape[2])]  # fmt: skip
            return torch.cat((attend(q, k, v, mask)[:, :, : at.text], *words), 2)

        with looking.looking(alone):
            worse = model(x, T3, cond)
        assert (worse - c).abs().max() > 1e-5
        out = over(model, 1.0, cond, empty, pag(2.0, (site,)))(x, T3, cond)
        assert torch.allclose(out, c + 2 * (c - worse), atol=2e-5)
    usual = over(model, 1.0, cond, empty, pag(2.0))(x, T3, cond)
    assert torch.equal(usual, over(model, 1.0, cond, empty, pag(2.0, (sites[len(sites) // 2],)))(x, T3, cond))
    if "cross" in SITES[name]:
        with pytest.raises(UserError, match="no self-attention"):
            over(model, 1.0, cond, empty, pag(2.0, (SITES[name].index("cross"),)))(x, T3, cond)
    with pytest.raises(UserError, match="no self-attention"):
        over(model, 1.0, cond, empty, pag(2.0, (99,)))(x, T3, cond)


def test_skipped_layers_are_left_out_in_some_of_the_steps(net):
    name, model, x, cond, empty = net
    c = model(x, T3, cond)
    with looking.looking(skips=(1,)):
        worse = model(x, T3, cond)
    assert (worse - c).abs().max() > 1e-5
    for stop, left in ((0.7, 0.0), (0.75, 1.5)):  # t = 0.3 is step 7 of 10
        out = over(model, 1.0, cond, empty, slg((1,), 1.5, 0.1, stop))(x, T3, cond)
        assert torch.equal(out, c if not left else c + left * (c - worse))
    strict = over(OneByOne(model), 1.0, cond, empty, slg((1,), 1.5, 0.0, 1.0))(x, T3, cond)
    assert torch.allclose(strict, c + 1.5 * (c - worse), atol=1e-4)
    with pytest.raises(UserError, match=f"layers 0 to {LAYERS[name] - 1}"):
        over(model, 1.0, cond, empty, slg((LAYERS[name],), 1.5, 0.0, 1.0))(x, T3, cond)


def test_a_model_without_attention_has_none_to_perturb():
    with pytest.raises(UserError, match="no self-attention"):
        made(Linear(), 1.0, pag())(X, T3, YES)


def test_without_layers_or_sites_or_strength_a_guide_adds_nothing():
    model = Linear()
    for guide in (pag(3.0, ()), slg(()), pag(0.0), slg((1,), 0.0), autoguide(Linear(gain=0.5), 1.0), classifier(Believer(), 0.0)):
        assert torch.equal(made(model, 1.0, guide)(X, T3, YES), Linear()(X, 0.3, YES))
    assert model.calls == 6


class Believer:
    """log p = x . v for a vector v of each class, whose gradient is v."""

    def wanted(self, said):
        return torch.tensor([float(len(str(one))) for one in said], dtype=F64)

    def log_prob(self, x, t, path, wanted):
        return x.flatten(1).sum(1) * wanted


def test_a_witness_moves_the_estimate_by_its_gradient():
    said = ("a", "bb", "cccc")
    out = made(Linear(), 1.0, classifier(Believer(), 2.0), said=said)(X, T3, YES)
    push = 2 * 0.3**2 / 0.7 * torch.tensor([1.0, 2, 4], dtype=F64)[:, None, None, None]
    assert torch.allclose(out, Linear()(X, 0.3, YES) + push)
    fixed = made(Linear(), 1.0, classifier(Believer(), 2.0, wanted="bbb"), said=("",) * 3)(X, T3, YES)
    assert torch.allclose(fixed, Linear()(X, 0.3, YES) + 2 * 0.3**2 / 0.7 * 3)
    one = torch.tensor(1.0, dtype=F64)
    assert torch.equal(made(Linear(), 1.0, classifier(Believer(), 2.0))(X, one, YES), Linear()(X, 1.0, YES))  # nothing to look at
    with pytest.raises(UserError, match="nothing is asked for"):
        made(Linear(), 1.0, classifier(Believer()), said=("a", "", "b"))
    with pytest.raises(UserError, match="judges no noised points"):
        classifier(Linear())
    x = X.clone().requires_grad_()
    (through,) = torch.autograd.grad(made(Linear(), 1.0, classifier(Believer()))(x, T3, YES).sum(), x)
    assert torch.allclose(through, torch.full_like(X, 0.7))


CALLS = {
    "interval(low=0.2, high=0.8)": "interval(low=0.8, high=0.2)",
    "rescale(phi=0.5)": "rescale(phi=1.5)",
    "threshold(percentile=0.9)": "threshold(percentile=0)",
    "clamp(limit=2.0)": "clamp(limit=0)",
    "cfg_plus(scale=0.4)": "cfg_plus(scale=7.5)",
    "cfg_zero(steps=0)": "cfg_zero(steps=-1)",
    "apg(eta=0.5, norm=7.5, momentum=-0.5)": "apg(momentum=1)",
    "autoguide(weak='model-0.2.safetensors', scale=2.0)": "autoguide(weak=3)",
    "pag(scale=3.0, sites=[1, 2])": "pag(start=0.7, stop=0.2)",
    "slg(layers=[1])": "slg(layers=[-1])",
    "classifier(reader='runs/fashion-classifier')": "classifier(reader=apg())",
    "scored(scorer='runs/avatars-scorer', scale=2.0)": "scored(scorer=apg())",
    "temperature(tau=0.5)": "temperature(tau=0)",
}


@pytest.mark.parametrize("call", CALLS)
def test_every_guide_is_written_as_a_call_and_remembers_it(call):
    asked = parse(call)
    card = wish(call).card
    assert {k: card[k] for k in asked} == asked and rebuild(card, GUIDES, "guide").card == card
    with pytest.raises(UserError):
        wish(CALLS[call])
    name = call.partition("(")[0]
    with pytest.raises(UserError, match=name):
        wish(f"{name}(colour=3)")


def test_every_guide_is_in_the_list():
    assert {call.partition("(")[0] for call in CALLS} == {make.__name__ for make in GUIDES}


def test_numbers_out_of_range_are_named_when_the_grid_is_known():
    with pytest.raises(UserError, match="none is left"):
        made(Linear(), 3.0, wish("cfg_zero(steps=10)"))
    with pytest.raises(UserError, match=r"no step of 10 lies from start 0.51"):
        made(Linear(), 1.0, slg((1,), start=0.51, stop=0.59))
    with pytest.raises(UserError, match=r"norm is 0"):
        apg(norm=0)
    with pytest.raises(UserError, match=r"opened"):
        made(Linear(), 3.0, wish("autoguide(weak='a.safetensors')"))


def test_momentum_does_not_pass_from_sample_to_sample():
    model = made(Linear(), 3.0, apg(momentum=-0.5))
    model(X, torch.tensor(0.9, dtype=F64), YES)
    with pytest.raises(ValueError, match="another batch"):
        made_again = Guided(model.model, 3.0, Cond(vector=NO.vector[:2]), steers=model.steers)
        made_again(X[:2], torch.tensor(0.5, dtype=F64), Cond(vector=YES.vector[:2]))
    assert model(X[:3], torch.tensor(0.95, dtype=F64), YES) is not None  # another way begins
