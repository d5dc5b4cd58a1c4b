"""Guidance: u + w (c - u), and what is done to it afterwards."""

import pytest
import torch

from reverie.denoiser import Cond
from reverie.errors import UserError
from reverie.guide import Guided, autoguide, cfg, interval, rescale, threshold
from reverie.guide.guidance import _quantile
from reverie.process import grids, schedules
from reverie.rng import Rng
from reverie.solve import Ancestral, sample

F64 = torch.float64
PATH = schedules.flow()
T3 = torch.tensor(0.3, dtype=F64)
X = Rng.of(0, 3, dtype=F64).normal((3, 2, 4, 4))
YES, NO = Cond(vector=torch.tensor([[1.0], [2.0], [3.0]], dtype=F64)), Cond(vector=torch.full((3, 1), -1.0, dtype=F64))


class Linear:
    """x0 = (1 - t) x + the condition; it counts its calls and the rows it was shown."""

    def __init__(self, path=PATH, gain=1.0):
        self.path, self.gain, self.calls, self.rows = path, gain, 0, 0

    def __call__(self, x, t, cond=None):
        self.calls, self.rows = self.calls + 1, self.rows + len(x)
        t = torch.as_tensor(t, dtype=F64).expand(len(x)).reshape(-1, 1, 1, 1)
        return self.gain * (1 - t) * x + (0 if cond is None else cond.vector[:, :, None, None])


@pytest.mark.parametrize("w", [-1.0, 0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("t", [T3, torch.tensor([0.1, 0.5, 0.9], dtype=F64)])
def test_scale_is_u_plus_w_times_c_minus_u(w, t):
    model = Linear()
    c, u = Linear()(X, t, YES), Linear()(X, t, NO)
    assert torch.allclose(cfg(model, w, NO)(X, t, YES), u + w * (c - u), rtol=0, atol=1e-14)


def test_scale_0_ignores_the_prompt_and_scale_1_is_the_plain_model():
    model = Linear()
    assert torch.equal(cfg(model, 0.0, NO)(X, T3, YES), Linear()(X, 0.3, NO))
    assert cfg(model, 1, NO) is model


def test_one_batch_of_both_equals_two_calls():
    model = Linear()
    one = cfg(model, 4.0, NO)(X, T3, YES)
    assert (model.calls, model.rows) == (1, 6)
    again, model = Linear(), Linear()
    two = Guided(model, again, 4.0, NO)(X, T3, YES)
    assert (model.calls, again.calls) == (1, 1)
    assert torch.equal(one, two)


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
    with pytest.raises(UserError, match="negative"):
        cfg(Linear(), 3.0, None)


def test_a_worse_model_is_pushed_away_from():
    model, weak = Linear(), Linear(gain=0.5)
    out = autoguide(model, weak, 2.0)(X, T3, YES)
    assert torch.allclose(out, 1.5 * 0.7 * X + YES.vector[:, :, None, None])
    assert (model.calls, weak.calls) == (1, 1)


def test_outside_its_interval_the_second_evaluation_is_saved():
    model = Linear()
    guided = cfg(model, interval(3.0, 0.3, 0.65), NO)
    for t, rows in ((0.9, 3), (0.65, 6), (0.5, 6), (0.3, 6), (0.1, 3)):
        model.rows = 0
        out = guided(X, torch.tensor(t, dtype=F64), YES)
        assert model.rows == rows
        truth = cfg(Linear(), 3.0 if rows == 6 else 1.0, NO)(X, torch.tensor(t, dtype=F64), YES)
        assert torch.allclose(out, truth, rtol=0, atol=1e-14)
    model.rows = 0
    sample(guided, X, grids.uniform()(PATH, 10), Ancestral(0.0), cond=YES)
    assert model.rows == 3 * (10 + 4)  # t = .6, .5, .4, .3
    mixed = guided(X, torch.tensor([0.9, 0.5, 0.1], dtype=F64), YES)
    assert torch.allclose(mixed[1:2], cfg(Linear(), 3.0, NO[1:2])(X[1:2], torch.tensor(0.5, dtype=F64), YES[1:2]))
    assert torch.allclose(mixed[0:1], Linear()(X[0:1], 0.9, YES[0:1]))
    with pytest.raises(UserError, match="interval"):
        interval(3.0, 0.7, 0.2)


@pytest.mark.parametrize("phi", [0.0, 0.4, 1.0])
def test_rescaling_moves_the_deviation_towards_the_conditional_one(phi):
    class Contrast(Linear):
        def __call__(self, x, t, cond=None):
            return x * cond.vector[:, :, None, None]

    t = T3
    plain, changed = cfg(Contrast(), 5.0, NO)(X, t, YES), cfg(Contrast(), 5.0, NO, rescale(phi))(X, t, YES)
    c = Contrast()(X, t, YES)
    deviation = phi * c.flatten(1).std(1) + (1 - phi) * plain.flatten(1).std(1)
    assert torch.allclose(changed.flatten(1).std(1), deviation)
    assert torch.allclose(changed / plain, (changed / plain)[:, :1, :1, :1].expand_as(X))  # a scale, nothing else


def test_thresholding_saturates_only_what_leaves_the_range():
    small = X / X.abs().max()
    assert torch.equal(threshold()(small, small), small)
    rows = torch.linspace(-4, 4, 101, dtype=F64).expand(2, 101) * torch.tensor([[0.2], [1.0]], dtype=F64)
    out = threshold(0.9)(rows, rows)
    reach = float(rows[1].abs().quantile(0.9))
    assert torch.equal(out[0], rows[0])
    assert torch.allclose(out[1], rows[1].clamp(-reach, reach) / reach, atol=1e-6)
    assert float(out.abs().max()) == 1
    assert torch.allclose(threshold(0.9, 2.0)(rows, rows)[1], rows[1].clamp(-reach, reach) / reach * 2, atol=1e-6)


def test_thresholding_takes_pictures_of_any_size():
    large = torch.linspace(0, 2, 2**24 + 3).reshape(1, 1, -1, 1)
    assert float(threshold(0.5)(large, large).max()) == 1
    assert torch.allclose(_quantile(X.flatten(1), 0.3), X.flatten(1).quantile(0.3, 1))
    assert torch.equal(_quantile(X.flatten(1), 1.0), X.flatten(1).amax(1))


def test_a_guided_variance_costs_no_third_evaluation():
    class Learned(Linear):
        def with_variance(self, x, t, cond=None):
            mean = self(x, t, cond)
            return mean, mean / 2

    for guided in (cfg(model := Learned(), 3.0, NO), Guided(model, model, 3.0, NO)):
        mean, variance = guided.with_variance(X, T3, YES)
        assert torch.equal(mean, cfg(Linear(), 3.0, NO)(X, T3, YES)) and torch.equal(variance, Linear()(X, T3, YES) / 2)
    assert model.rows == 2 * 6
    model, weak = Learned(), Linear(gain=0.5)
    mean, variance = autoguide(model, weak, 2.0).with_variance(X, T3, YES)
    assert torch.equal(mean, autoguide(Linear(), weak, 2.0)(X, T3, YES)) and model.rows == 3
    assert torch.equal(variance, Linear()(X, T3, YES) / 2)
    model.rows = 0
    outside = Guided(model, weak, interval(3.0, 0.5, 0.6)).with_variance(X, T3, YES)
    assert torch.equal(outside[0], Linear()(X, T3, YES)) and model.rows == 3


def test_finishes_follow_one_another():
    order = []

    def finish(name):
        return lambda guided, conditional: order.append(name) or guided

    cfg(Linear(), 2.0, NO, finish("first"), finish("second"))(X, T3, YES)
    assert order == ["first", "second"]
