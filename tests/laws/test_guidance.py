"""Laws of guidance, where the truth is known in closed form: Bayes' rule, Gaussians, and the published updates."""

import math

import pytest
import torch
from paths import F64, PATHS, mixture
from test_batches import SOLVERS

from reverie import oracle
from reverie.denoiser import Cond, Denoiser
from reverie.guide import (
    Asked,
    apg,
    autoguide,
    cfg_plus,
    cfg_zero,
    clamp,
    classifier,
    guided,
    interval,
    pag,
    rescale,
    scored,
    slg,
    temperature,
    threshold,
)
from reverie.nets.dit import DiT, DiTConfig
from reverie.process import grids, rules
from reverie.process.path import like
from reverie.rng import Rng
from reverie.solve import Ancestral, Exponential, heun, sample, trace

MEANS = mixture(PATHS["flow"]).means


class Told:
    """The mixture; under a condition k >= 0 its component k, under -1 all of it."""

    def __init__(self, path):
        self.path, self.every = path, mixture(path)
        self.each = [oracle.gaussian(path, m, float(d)) for m, d in zip(self.every.means, self.every.deviations, strict=True)]

    def __call__(self, x, t, cond=None):
        known = torch.stack([*(one(x, t) for one in self.each), self.every(x, t)])
        return known[cond.vector[:, 0].long(), torch.arange(len(x))]

    def wanted(self, said):
        return torch.tensor([int(one) for one in said])

    def log_prob(self, x, t, path, wanted):
        return self.every.evidence(x, t)[0].log_softmax(1).gather(1, wanted[:, None].long())[:, 0]


def told(*classes):
    return Cond(vector=torch.tensor(classes, dtype=F64)[:, None])


def plain(n):
    return told(*[-1] * n)


def of(model, cond, grid, *guides, scale=1.0, said=None):
    said = tuple(cond.vector[:, 0].long().tolist()) if said is None else said
    empty = plain(len(said))
    return guided(Asked(plain=model, scale=scale, negative=empty, grid=grid, said=said, cond=cond), guides)


def times(path, n=9):
    """From nearly noise to nearly data, where the signal is at least a thousandth."""
    return path.t_of_lam(torch.linspace(-math.log(1000), math.log(100), n, dtype=F64))


@pytest.mark.parametrize("name", PATHS)
def test_the_exact_classifier_makes_the_exact_conditional_denoiser(name):
    path = PATHS[name]
    model = Told(path)
    for t in times(path):
        alpha, sigma = path(t)
        x = alpha * MEANS.repeat(2, 1) + sigma * Rng.of(3, 6, dtype=F64).normal((6, 2))
        wanted = (0, 1, 2, 2, 0, 1)
        out = of(model, plain(6), grids.uniform()(path, 4), classifier(model), said=wanted)(x, t, plain(6))
        assert (out - model(x, t, told(*wanted))).abs().max() < 1e-8, float(t)


def test_a_classifier_half_believed_lies_between():
    path = PATHS["flow"]
    model, x, t = Told(path), Rng.of(3, 6, dtype=F64).normal((6, 2)), torch.tensor(0.6, dtype=F64)
    wanted = (0, 1, 2, 2, 0, 1)
    half = of(model, plain(6), grids.uniform()(path, 4), scored(model, 0.5), said=wanted)(x, t, plain(6))
    assert torch.allclose(half, (model(x, t, plain(6)) + model(x, t, told(*wanted))) / 2, atol=1e-12)


@pytest.mark.parametrize("name", PATHS)
def test_guided_gaussians_are_a_gaussian_of_known_mean(name):
    path, w = PATHS[name], 2.5

    class Two:
        def __init__(self):
            self.path = path

        def __call__(self, x, t, cond=None):
            ends = [oracle.gaussian(path, m, 0.4)(x, t) for m in MEANS[:2]]
            return torch.where(cond.vector > 0, *ends)

    grid, rng = grids.exponential()(path, 12), Rng.of(5, 64, dtype=F64)
    model, mean = of(Two(), told(*[1] * 64), grid, scale=w), MEANS[1] + w * (MEANS[0] - MEANS[1])
    truth = oracle.gaussian(path, mean, 0.4)
    x = path.prior((64, 2), rng=rng)
    for t in times(path):
        assert (model(x, t, told(*[1] * 64)) - truth(x, t)).abs().max() < 1e-9 * max(1, float(path(1.0)[1]))
    drawn = sample(model, truth.draw(rng) * path(grid[0])[0] + path(grid[0])[1] * x / x.std(), grid, heun(), cond=told(*[1] * 64))
    assert (drawn.mean(0) - mean).abs().max() < 0.25


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("lam", [0.0, 0.4, 1.0])
def test_cfg_plus_is_the_published_update(name, lam):
    path = PATHS[name]
    model, cond, rng = Told(path), told(0, 1, 2), Rng.of(5, 3, dtype=F64)
    columns = [make(path, 6) for make in (grids.uniform(), grids.quadratic(), grids.exponential())]
    for grid in (columns[0], torch.stack(columns, 1)):
        x = y = path.prior((3, 2), rng=rng)
        plus, scale = of(model, cond, grid, cfg_plus(lam)), max(1.0, float(path(1.0)[1]))
        for step in trace(plus, x, grid, Ancestral(0.0), cond=cond):
            (alpha_t, sigma_t), (alpha_s, sigma_s) = path(step.t), path(step.s)
            u, c = model(y, step.t, plain(3)), model(y, step.t, cond)
            noise = (y - like(alpha_t, y) * u) / like(sigma_t, y)
            y = like(alpha_s, y) * (u + lam * (c - u)) + like(sigma_s, y) * noise
            assert (step.x - y).abs().max() < 1e-12 * scale, float(step.t.max())


def test_cfg_plus_knows_its_step_between_the_knots_and_by_their_last_bits():
    path, grid = PATHS["flow"], grids.uniform()(PATHS["flow"], 4)
    model, cond, x = Told(path), told(0), Rng.of(5, dtype=F64).normal((1, 2))
    plus = of(model, cond, grid, cfg_plus(0.5))

    def weight(t):
        u, c = model(x, t, plain(1)), model(x, t, cond)
        return float(((plus(x, t, cond) - u) / (c - u)).mean())

    at = {k: weight(grid[k]) for k in range(4)}
    assert at[3] == pytest.approx(0.5) and at[1] > at[3]
    for k in range(4):
        for nudge in (1e-14, -1e-14, -0.1):
            assert weight(grid[k] + (nudge if k or nudge < 0 else 0)) == pytest.approx(at[k], rel=1e-9)


def test_cfg_zero_takes_the_least_squares_share_of_the_velocity():
    path, grid, w = PATHS["flow"], grids.uniform()(PATHS["flow"], 5), 4.0
    model, cond, x = Told(path), told(0, 1, 2), Rng.of(5, 3, dtype=F64).normal((3, 2))
    for t in grid[1:-1]:
        c, u = (x - model(x, t, cond)) / t, (x - model(x, t, plain(3))) / t  # n - x0 on the flow
        shares = torch.stack([torch.linalg.lstsq(u[k][:, None], c[k][:, None]).solution[0, 0] for k in range(3)])[:, None]
        velocity = shares * u + w * (c - shares * u)
        out = of(model, cond, grid, cfg_zero(), scale=w)(x, t, cond)
        assert torch.allclose(out, x - t * velocity, atol=1e-12)


def test_cfg_zero_is_plain_guidance_where_both_velocities_have_one_direction():
    path, grid = PATHS["vp"], grids.uniform()(PATHS["vp"], 5)

    class Along:
        """The velocity under the condition is 1.7 times that without."""

        def __init__(self):
            self.path = path

        def __call__(self, x, t, cond=None):
            y = x / like(sum(path(t)), x)
            return y - torch.where(cond.vector >= 0, 1.7, 1.0) * (y - x.cos())

    x, cond = Rng.of(5, 3, dtype=F64).normal((3, 2)), told(0, 1, 2)
    out = of(Along(), cond, grid, cfg_zero(), scale=6.0)(x, grid[2], cond)
    assert torch.allclose(out, Along()(x, grid[2], cond), atol=1e-12)


@pytest.mark.parametrize("name", ["vp", "cosine", "ve", "edm", "linear_table"])
def test_cfg_zero_stands_still_and_draws_the_same_on_every_path(name):
    """Law 3 of the design: in y = x / (alpha + sigma), every path is the flow with other times."""
    path, flow = PATHS[name], PATHS["flow"]
    grid = grids.exponential()(path, 8)
    own = flow.t_of_lam(path.lam(grid))
    cond, n = told(0, 1, 2), Rng.of(5, 3, dtype=F64).normal((3, 2))
    ends = []
    for each, ts in ((path, grid), (flow, own)):
        alpha, sigma = each(ts[0])
        steps = list(trace(of(Told(each), cond, ts, cfg_zero(2), scale=3.0), n * (alpha + sigma), ts, Ancestral(0.0), cond=cond))
        for k in (0, 1):
            assert torch.allclose(steps[k].x / sum(each(ts[k + 1])), n, atol=1e-10)
        assert not torch.allclose(steps[2].x / sum(each(ts[3])), n, atol=1e-3)
        ends.append(steps[-1].x)
    assert (ends[0] - ends[1]).abs().max() < 1e-6


def test_apg_without_its_parts_is_plain_guidance():
    path, grid = PATHS["vp"], grids.uniform()(PATHS["vp"], 6)
    model, cond, x = Told(path), told(0, 1, 2), Rng.of(5, 3, dtype=F64).normal((3, 2))
    for t in grid[:-1]:
        same = of(model, cond, grid, scale=5.0)(x, t, cond)
        assert torch.allclose(of(model, cond, grid, apg(1.0), scale=5.0)(x, t, cond), same, atol=1e-12)
        assert not torch.allclose(of(model, cond, grid, apg(0.0), scale=5.0)(x, t, cond), same, atol=1e-3)


@pytest.mark.parametrize("momentum", [0.0, -0.5, 0.7])
def test_apg_is_the_published_update(momentum):
    """Momentum, length, projection (arXiv:2410.02416, algorithm 1), written out."""
    path, grid, w, eta, most = PATHS["vp"], grids.uniform()(PATHS["vp"], 6), 5.0, 0.3, 0.8
    model, cond = Told(path), told(0, 1, 2)
    one, running = of(model, cond, grid, apg(eta, most, momentum), scale=w), 0.0
    for k, t in enumerate(grid[:-1]):
        x = Rng.of(50 + k, 3, dtype=F64).normal((3, 2))
        c, u = model(x, t, cond), model(x, t, plain(3))
        running = c - u + momentum * running
        step = running * (most / running.norm(dim=1, keepdim=True)).clamp(max=1)
        unit = c / c.norm(dim=1, keepdim=True)
        along = (step * unit).sum(1, keepdim=True) * unit
        truth = c + (w - 1) * (step - along + eta * along)
        assert torch.allclose(one(x, t, cond), truth, atol=1e-12), k
        if momentum:
            assert torch.allclose(one(x, t, cond), truth, atol=1e-12)  # asked at the same time once more


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("tau", [0.25, 1.0, 3.0])
def test_a_gaussian_at_a_temperature_has_as_many_times_the_variance(name, tau):
    path, mean = PATHS[name], MEANS[0]
    model, truth = oracle.gaussian(path, mean, 0.6), oracle.gaussian(path, mean, 0.6 * tau**0.5)
    grid, x = grids.uniform()(path, 4), Rng.of(3, 6, dtype=F64).normal((6, 2))
    cooled = guided(Asked(plain=model, grid=grid, said=("",) * 6), [temperature(tau, 0.6)])
    for t in [*times(path), torch.tensor(1.0, dtype=F64)]:
        y = x * path(t)[1] + path(t)[0] * mean
        assert (cooled(y, t) - truth(y, t)).abs().max() < 1e-9


def test_a_temperature_for_another_deviation_ends_between():
    """d ln x / d v = (d^2 + v) / (2 (s^2 + v) (tau d^2 + v)) for v = sigma^2: x_0 = x_1 s^a (tau d^2)^(b / 2) / .., a + b = 1."""
    path, s, d, tau = PATHS["ve"], 0.7, 0.4, 0.5
    grid = grids.exponential()(path, 400)
    model = guided(Asked(plain=oracle.gaussian(path, torch.zeros(1, dtype=F64), s), grid=grid, said=("",)), [temperature(tau, d)])
    x, v = torch.tensor([[3.0]], dtype=F64), float(path(grid[0])[1]) ** 2
    a = (d**2 - s**2) / (tau * d**2 - s**2)
    known = 3.0 * (s**2 / (s**2 + v)) ** (a / 2) * (tau * d**2 / (tau * d**2 + v)) ** ((1 - a) / 2)
    assert float(sample(model, x, grid, Exponential(2))) == pytest.approx(known, rel=1e-3)


class Attentive(Denoiser):
    """A net of double precision with attention, told a class by its vector."""

    def __init__(self, path):
        torch.manual_seed(2)
        net = DiT(DiTConfig(in_channels=1, size=4, patch=2, width=16, depth=3, heads=2, learn_sigma=False, vector_dim=1)).double()
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.2)
        super().__init__(net.eval().requires_grad_(False), path, rules.velocity())


FLOW = PATHS["flow"]
NET, TOLD = Attentive(FLOW), Told(FLOW)
EVERY = {
    "none": (TOLD,),
    "interval": (TOLD, interval(0.25, 0.7)),
    "rescale": (TOLD, rescale()),
    "threshold": (TOLD, threshold(0.9)),
    "clamp": (TOLD, clamp()),
    "cfg_plus": (TOLD, cfg_plus(0.6)),
    "cfg_zero": (TOLD, cfg_zero()),
    "apg": (TOLD, apg(0.2, 0.5)),
    "momentum": (TOLD, apg(0.2, 0.5, -0.5), interval(0.25, 0.7)),
    "autoguide": (TOLD, autoguide(oracle.gaussian(FLOW, MEANS[0], 1.0), 1.5)),
    "classifier": (TOLD, classifier(TOLD, 2.0)),
    "scored": (TOLD, scored(TOLD, 0.5)),
    "temperature": (TOLD, temperature(0.7)),
    "pag": (NET, pag(1.5, (1,), 0.0, 0.6)),
    "slg": (NET, slg((1,), 1.5, 0.0, 0.6)),
    "all": (
        NET,
        apg(0.2, 0.5, -0.5),
        interval(0.1, 0.85),
        pag(0.5),
        slg((2,), 0.5, 0.0, 0.6),
        temperature(0.9),
        cfg_zero(),
        rescale(),
    ),
}


@pytest.mark.parametrize("name", EVERY)
def test_law_8_guided_samples_do_not_look_at_the_batch(name):
    """Every guide with every family of solvers: alone, in a batch, and each with times of its own."""
    model, *guides = EVERY[name]
    shape = (2,) if model is TOLD else (1, 4, 4)
    cond, rng = told(0, 2, 1), Rng.of(7, 3, dtype=F64)
    x, one = FLOW.prior((3, *shape), rng=rng), grids.uniform()(FLOW, 4)
    own = torch.stack([one, grids.quadratic()(FLOW, 4), grids.exponential()(FLOW, 4)], 1)

    def run(rows, grid, solver):
        return sample(of(model, cond[rows], grid, *guides, scale=2.5), x[rows], grid, solver, cond=cond[rows], rng=rng[rows])

    for kind, solver in SOLVERS.items():
        grid = one[:, None].expand(-1, 3) if kind == "restart" else own  # which parts a batch whose samples go back at other steps
        apart, together = run(slice(0, 3), grid, solver), run(slice(0, 3), one, solver)
        assert bool(apart.isfinite().all())
        for k in (0, 1):
            row = slice(k, k + 1)
            assert (apart[row] - run(row, grid[:, k], solver)).abs().max() < 1e-9, kind
        assert (together[:1] - apart[:1]).abs().max() < 1e-9, kind  # the first has these times in both


@pytest.mark.parametrize("name", EVERY)
def test_law_8_guided_traces_go_on_from_any_step(name):
    model, *guides = EVERY[name]
    shape = (2,) if model is TOLD else (1, 4, 4)
    cond, rng, grid = told(0, 2, 1), Rng.of(7, 3, dtype=F64), grids.uniform()(FLOW, 6)
    for solver in (heun(), SOLVERS["midpoint"], SOLVERS["unipc"]):
        whole = of(model, cond, grid, *guides, scale=2.5)
        steps = list(trace(whole, FLOW.prior((3, *shape), rng=rng), grid, solver, cond=cond, rng=rng))
        again = list(trace(whole, steps[0].x, grid, solver, cond=cond, rng=rng, begin=steps[2]))
        assert torch.equal(again[-1].x, steps[-1].x)


@pytest.mark.parametrize("name", ["none", "interval", "rescale", "apg", "momentum", "cfg_zero"])
def test_scale_1_is_bit_for_bit_the_plain_conditional_model(name):
    net = Attentive(FLOW).float()
    _, *guides = EVERY[name]
    guides = [cfg_zero(0)] if name == "cfg_zero" else guides
    cond, rng, grid = told(0, 2, 1).map(Tensor32), Rng.of(7, 3), grids.uniform()(FLOW, 6)
    x = FLOW.prior((3, 1, 4, 4), rng=rng)
    empty = plain(3).map(Tensor32)
    made = guided(Asked(plain=net, scale=1.0, negative=empty, grid=grid, said=(0, 2, 1), cond=cond), guides)
    one, two = (sample(m, x, grid, Exponential(2), cond=cond) for m in (made, net))
    assert one.dtype == torch.float32 and torch.equal(one, two)


def Tensor32(v):
    return v.float()


def test_a_model_guided_away_from_itself_is_itself():
    grid, cond = grids.uniform()(FLOW, 6), told(0, 2, 1)
    x = Rng.of(7, 3, dtype=F64).normal((3, 2))
    for t in grid[:-1]:
        assert torch.equal(of(TOLD, cond, grid, autoguide(TOLD, 3.0))(x, t, cond), TOLD(x, t, cond))
