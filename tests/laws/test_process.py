"""Laws 3, 4 and 5, and what grids and noise laws promise."""

import math

import pytest
import torch
from paths import F64, PATHS, SMOOTH, grid_of, mixture
from torch import nn

from reverie.card import rebuild
from reverie.denoiser import Denoiser, timestep
from reverie.errors import UserError
from reverie.process import grids, rules, schedules
from reverie.process.noise import offset, student_t
from reverie.rng import Rng
from reverie.solve import Ancestral, Exponential, heun, midpoint, rk4, sample

RULES = {make.__name__: make() for make in rules.RULES}
FREE = ("x0", "eps", "edm")  # whose meaning depends on lam alone
INNER = torch.linspace(0.0205, 0.9795, 30, dtype=F64)  # away from the kinks of tables


class Net(nn.Module):
    """Any smooth function of what the net is shown and told."""

    def forward(self, x, t):
        return torch.sin(2 * x + t[:, None] / 40) + 0.3 * torch.cos(x.flip(1) - t[:, None] / 60)


@pytest.mark.parametrize("rule", FREE)
@pytest.mark.parametrize("path", PATHS)
def test_law_3_a_denoiser_moves_to_another_schedule(path, rule):
    home, away = schedules.vp(), PATHS[path]
    x = Rng.of(2, 9, dtype=F64).normal((9, 2))
    lam = torch.linspace(-2.5, 4, 9, dtype=F64)
    t, there = home.t_of_lam(lam), away.t_of_lam(lam)
    scale = (away(there)[0] / home(t)[0])[:, None]
    old, new = (Denoiser(Net(), p, RULES[rule], sigma_data=0.5) for p in (home, away))
    assert (old(x, t) - new(scale * x, there)).abs().max() < 1e-9


SOLVERS = {
    "ddim": Ancestral(0.0),
    "ddpm": Ancestral(1.0),
    "exponential-3-heun": Exponential(3, start="heun"),
    "sde-2": Exponential(2, eta=1.0),
    "heun": heun(),
    "midpoint": midpoint(),
    "rk4": rk4(),
}


@pytest.mark.parametrize("path", PATHS)
def test_law_3_samples_are_the_same_on_another_schedule(path):
    home, away = schedules.edm(), PATHS[path]
    lam = torch.linspace(-2.0, 5.0, 12, dtype=F64)
    rng = Rng.of(4, 5, dtype=F64)

    def run(path, solver):
        grid = torch.cat([path.t_of_lam(lam), torch.zeros(1, dtype=F64)])
        x = path(grid[0])[0] * (math.exp(2.0) * rng.normal((5, 2)) + 0.3)
        return sample(Denoiser(Net(), path, rules.edm(), sigma_data=0.5), x, grid, solver, rng=rng)

    straight = float(away(1.0)[0]) < 1e-6  # Runge-Kutta steps along another straight line there
    for name, solver in SOLVERS.items():
        if not (straight and name in ("heun", "midpoint", "rk4")):
            assert (run(home, solver) - run(away, solver)).abs().max() < 1e-8, name


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("path", PATHS)
def test_law_4_rules_round_trip(path, rule):
    path, rule = PATHS[path], RULES[rule]
    rng = Rng.of(1, len(INNER), dtype=F64)
    x0, n = rng.fold("x0").normal((len(INNER), 3)), rng.fold("n").normal((len(INNER), 3))
    a, b = rule(path, INNER)
    keep, take = Denoiser(Net(), path, rule).solution(INNER)
    out = a[:, None] * x0 + b[:, None] * n
    assert (keep[:, None] * path.mix(x0, n, INNER) + take[:, None] * out - x0).abs().max() < 1e-9


@pytest.mark.parametrize("path", PATHS)
def test_law_4_rules_mean_what_was_published(path):
    path, x0, n = PATHS[path], 0.7, -1.1
    (alpha, sigma), (alpha_rate, sigma_rate) = path(INNER), path.rates(INNER)
    x, k = alpha * x0 + sigma * n, (alpha**2 * 0.25 + sigma**2).sqrt()
    published = {
        "x0": x0 + 0 * alpha,
        "eps": n + 0 * alpha,
        "score": (alpha * x0 - x) / sigma**2,  # grad log N(x; alpha x0, sigma^2)
        "v": alpha * n - sigma * x0,
        "velocity": alpha_rate * x0 + sigma_rate * n,
        "edm": (x0 - 0.25 * alpha / k**2 * x) / (0.5 * sigma / k),  # x0 = c_skip x + c_out F
    }
    for name, truth in published.items():
        a, b = RULES[name](path, INNER)
        assert torch.allclose(a * x0 + b * n, truth, rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize("path", PATHS)
def test_law_4_rates_are_the_derivative(path):
    path, h = PATHS[path], 1e-5
    for rate, later, before in zip(path.rates(INNER), path(INNER + h), path(INNER - h), strict=True):
        assert (rate - (later - before) / (2 * h)).abs().max() < 1e-6 * (1 + float(rate.abs().max()))


@pytest.mark.parametrize("path", PATHS)
def test_law_4_lam_falls_and_has_its_inverse(path):
    path = PATHS[path]
    t = torch.linspace(0, 1, 501, dtype=F64)
    lam = path.lam(t)
    assert bool((lam[1:] < lam[:-1]).all())
    assert (path.t_of_lam(lam) - t).abs().max() < 1e-11
    assert float(path.t_of_lam(path.lam(1.0) - 1)) == 1 and float(path.t_of_lam(math.inf)) == 0
    small = torch.tensor([1e-6, 1e-4], dtype=F64)
    assert (path.t_of_lam(path.lam(small)) / small - 1).abs().max() < 1e-4  # still found, though noise is tiny there


@pytest.mark.parametrize("path", PATHS)
def test_law_4_ends_are_exact(path):
    alpha, sigma = PATHS[path](0.0)
    assert (float(alpha), float(sigma)) == (1.0, 0.0)
    if "zero_snr" in path:
        alpha, sigma = PATHS[path](1.0)
        assert float(alpha) == 0 and abs(float(sigma) - 1) < 1e-15


def test_law_4_zero_snr_keeps_the_curve_of_the_schedule():
    """alpha = (c - c_1) / (1 - c_1) for the angle c of a variance-preserving path (arXiv 2305.08891, algorithm 1)."""
    path, t = schedules.vp(), torch.linspace(0, 1, 11, dtype=F64)
    c, last = path(t)[0], path(1.0)[0]
    alpha, sigma = schedules.zero_snr(path)(t)
    assert (alpha - (c - last) / (1 - last)).abs().max() < 1e-14
    assert (alpha**2 + sigma**2 - 1).abs().max() < 1e-14


def betas(name):
    """The published sequences, one number at a time."""
    if name == "linear_table":
        return [1e-4 + (0.02 - 1e-4) * i / 999 for i in range(1000)]
    if name == "scaled_linear_table":
        return [(0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * i / 999) ** 2 for i in range(1000)]

    def bar(u):
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    return [min(1 - bar((i + 1) / 1000) / bar(i / 1000), 0.999) for i in range(1000)]


@pytest.mark.parametrize("name", ["linear_table", "scaled_linear_table", "cosine_table"])
def test_law_4_tables_hit_the_published_products(name):
    product, bars = 1.0, []
    for beta in betas(name):
        product *= 1 - beta
        bars.append(product)
    alpha, sigma = PATHS[name]((torch.arange(1000, dtype=F64) + 1) / 1000)
    bars = torch.tensor(bars, dtype=F64)
    assert (alpha**2 / bars - 1).abs().max() < 1e-9 and (sigma**2 + bars - 1).abs().max() < 1e-12


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("path", PATHS)
def test_law_5_bridging_corrupted_data_gives_the_marginal(path, eta):
    path, count = PATHS[path], 20_000
    rng, x0 = Rng((8,), dtype=F64, whole=True), torch.full((count, 1), 0.8, dtype=F64)
    for t, s in ((1.0, 0.9), (0.7, 0.3), (0.3, 0.05)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = path(t), path(s)
        x = path.corrupt(x0, t, rng=rng.fold("first"))
        y = path.bridge(x, x0, t, s, eta=eta, rng=rng.fold("second"))
        z, w = (x - alpha_t * 0.8) / sigma_t, (y - alpha_s * 0.8) / sigma_s
        assert abs(float(w.mean())) < 4.5 / count**0.5
        assert abs(float(w.var()) - 1) < 4.5 * (2 / count) ** 0.5
        if eta == 1:  # the chain is Markov: cov(x_s, x_t) = alpha_t / alpha_s sigma_s^2
            r = float(alpha_t / alpha_s * sigma_s / sigma_t)
            assert abs(float((z * w).mean()) - r) < 4.5 * ((1 + r * r) / count) ** 0.5
        if eta == 0:
            assert (z - w).abs().max() < 1e-10


@pytest.mark.parametrize("path", PATHS)
def test_law_5_the_last_bridge_returns_the_estimate(path):
    x = Rng.of(0, 2, dtype=F64).normal((2, 3))
    for eta in (0.0, 1.0):
        assert torch.equal(PATHS[path].bridge(x + 1, x, 0.4, 0.0, eta=eta, rng=Rng.of(0, 2, dtype=F64)), x)


@pytest.mark.parametrize("grid", grids.GRIDS)
@pytest.mark.parametrize("path", PATHS)
def test_grids_fall_from_noise_to_data(path, grid):
    path = PATHS[path]
    for steps in (1, 2, 9):
        knots = grid_of(grid, steps)(path, steps)
        assert len(knots) == steps + 1 and knots.dtype == F64
        assert torch.equal(grids.check(knots), knots) and float(knots[-1]) == 0
        second = {grids.leading: 1, grids.ddim_uniform: 2}.get(grid)
        if grid is not grids.ratios:
            assert float(knots[0]) == (((steps - 1) * (1000 // steps) + second) / 1000 if second else 1)


def test_quantiles_halve_without_moving():
    for path in PATHS.values():
        for steps in (1, 2, 5):
            one, two = grids.quantiles()(path, steps), grids.quantiles()(path, 2 * steps)
            torch.testing.assert_close(two[::2], one, atol=1e-12, rtol=0)
    u = (-schedules.flow().lam(grids.quantiles(0.5, 2.0)(schedules.flow(), 4)[1:-1])).exp().log()
    torch.testing.assert_close(u, 0.5 + 2 * torch.tensor([0.6744897501960817, 0, -0.6744897501960817], dtype=F64))


def test_grids_have_their_formulas():
    path, n = schedules.edm(), 18
    i = torch.arange(n, dtype=F64)
    u = (80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert (path(grids.karras()(path, n)[:-1])[1] / u - 1).abs().max() < 1e-12
    u = 80 * (0.002 / 80) ** (i / (n - 1))
    assert (path(grids.exponential()(path, n)[:-1])[1] / u - 1).abs().max() < 1e-12
    lam = schedules.cosine().lam(grids.lam_uniform()(schedules.cosine(), n)[1:-1])
    assert (lam.diff() - lam.diff().mean()).abs().max() < 1e-9
    assert torch.allclose(grids.quadratic()(path, 4), torch.tensor([1, 9 / 16, 1 / 4, 1 / 16, 0], dtype=F64))
    # arXiv 2305.08891, table 2: T = 1000, 10 steps, counted from 1
    published = {grids.leading: (901, 801, 101, 1), grids.trailing: (1000, 900, 200, 100), grids.linspace: (1000, 889, 112, 1)}
    for grid, knots in published.items():
        found = (grid()(path, 10) * 1000).round()
        assert tuple(found[[0, 1, 8, 9]].tolist()) == knots


def test_impossible_grids_are_refused():
    path = schedules.flow()
    for grid in grids.GRIDS:
        with pytest.raises(UserError, match="at least 1"):
            grid_of(grid, 5)(path, 0)
    with pytest.raises(UserError, match="at most 1000"):
        grids.leading()(path, 1001)
    wrong = {"karras": ("rho=0", "rho=inf", "smallest=-1", "smallest=2, largest=1"), "exponential": ("largest=0",)}
    wrong |= {"lam_uniform": ("first=0", "last=2")}
    for name, some in wrong.items():
        for arguments in some:
            given = {k: float(v) for k, v in (pair.split("=") for pair in arguments.split(", "))}
            with pytest.raises(UserError, match=f"{name}: {next(iter(given))} is .* must"):
                rebuild({"name": name, **given}, grids.GRIDS)
    for table in (0, -1, 10.5, 1e300, math.nan, "a"):
        with pytest.raises(UserError, match=r"table is .* must"):
            rebuild({"name": "trailing", "table": table}, grids.GRIDS)
    for bad, reason in (([0.0, 1.0], "fall"), ([0.5, 0.5], "fall"), ([1.2, 0.0], "lie in"), ([1.0], "at least one")):
        with pytest.raises(UserError, match=reason):
            sample(mixture(path), torch.zeros(1, 2, dtype=F64), torch.tensor(bad, dtype=F64), Ancestral())
    with pytest.raises(UserError, match="shift"):
        schedules.flow(-1.0)


def test_offset_noise_is_shared_by_a_channel():
    """cov = I + strength^2 within a channel, nothing across."""
    n = offset(0.5)((20_000, 2, 3), Rng((6,), dtype=F64, whole=True))
    found = torch.cov(n.flatten(1).T)
    truth = torch.eye(6, dtype=F64) + 0.25 * torch.block_diag(torch.ones(3, 3, dtype=F64), torch.ones(3, 3, dtype=F64))
    assert (found - truth).abs().max() < 4.5 * 1.25 * (2 / 20_000) ** 0.5


@pytest.mark.parametrize("dimensions", [3.0, 16.0, 2.0**30])
def test_student_t_radius_has_its_quantiles(dimensions):
    """In the plane |n|^2 / 2 ~ F(2, D), with the closed quantile D/2 ((1 - p)^(-2/D) - 1)."""
    count = 20_000
    radius = student_t(dimensions)((count, 2), Rng((7,), dtype=F64, whole=True)).square().sum(1) / 2
    for p in (0.1, 0.5, 0.9, 0.99):
        quantile = dimensions / 2 * math.expm1(-2 / dimensions * math.log1p(-p))
        assert abs(float((radius < quantile).double().mean()) - p) < 4.5 * (p * (1 - p) / count) ** 0.5


def test_clocks_tell_discrete_nets_their_integers():
    path = schedules.linear_table()
    t = (torch.arange(1000, dtype=F64) + 1) / 1000
    assert (timestep(1000, -1)(path, t) - torch.arange(1000)).abs().max() < 1e-9


@pytest.mark.parametrize("path", PATHS)
def test_smooth_paths_have_no_kinks_and_tables_have(path):
    """The slope of ln(alpha / sigma) left and right of a point is the same as the distance shrinks, except where a table bends."""
    t, h = (torch.arange(200, 800, dtype=F64) + 1) / 1000, 1e-5  # the points of the tables
    before, here, after = ((PATHS[path].alpha(t + s) / PATHS[path].sigma(t + s)).log() for s in (-h, 0, h))
    bend = float(((after - 2 * here + before) / (after - before)).abs().max())
    assert bend < 1e-4 if path in SMOOTH else bend > 1e-3
