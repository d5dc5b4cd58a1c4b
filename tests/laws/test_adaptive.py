"""Adaptive solvers meet their tolerance; a sample's steps are its own; Brownian paths are refined, not redrawn."""

import pytest
import torch
from paths import F64, PATHS, mixture

from reverie import oracle
from reverie.process import grids, schedules
from reverie.rng import Rng
from reverie.solve import DDIM, Brownian, Exponential, adaptive_sde, euler, picard, rk4, rk23, rk45, sample, trace

WHOLE = torch.tensor([1.0, 0.0], dtype=F64)


@pytest.mark.parametrize("name", ["vp", "edm", "flow", "sub_vp", "cosine"])
@pytest.mark.parametrize("make", [rk23, rk45])
def test_tolerances_are_met(name, make):
    path = PATHS[name]
    model = mixture(path)
    x = path.prior((6, 2), rng=Rng.of(2, 6, dtype=F64))
    truth = sample(model, x, grids.karras(smallest=2e-3, largest=1e4)(path, 600), rk4())
    errors = {}
    for tolerance in (1e-2, 1e-4, 1e-6):
        y = sample(model, x, WHOLE, make(tolerance, tolerance))
        errors[tolerance] = float((y - truth).abs().max())
        assert errors[tolerance] < 100 * tolerance + 3e-6  # of 20 to 100 steps, each within the tolerance
    assert errors[1e-6] < errors[1e-2] / 50


def test_more_is_spent_where_it_is_needed():
    path = schedules.vp()
    x = path.prior((4, 2), rng=Rng.of(2, 4, dtype=F64))
    loose, tight = (list(trace(mixture(path), x, WHOLE, rk45(tol, tol)))[-1].nfe for tol in (1e-2, 1e-6))
    assert 20 < loose < tight < 1000


@pytest.mark.parametrize("solver", [rk23(), rk45(), adaptive_sde()], ids=["rk23", "rk45", "sde"])
def test_law_8_every_sample_takes_its_own_steps(solver):
    path = schedules.vp()
    model = mixture(path)

    def run(rng):
        return sample(model, path.prior((len(rng.seeds), 2), rng=rng), WHOLE, solver, rng=rng)

    batch, alone = run(Rng.of(7, 4, dtype=F64)), run(Rng.of(9, dtype=F64))
    assert (batch[2:3] - alone).abs().max() < 1e-12


def test_brownian_increments_are_normal_and_add_up():
    rng = Brownian(Rng.of(0, 60, dtype=F64))
    t, m, s = 0.9, 0.33, 0.2

    def increment(a, b):
        return rng.step(0, torch.tensor(a, dtype=F64), torch.tensor(b, dtype=F64)).normal((60, 20)) * (a - b) ** 0.5

    assert (increment(t, m) + increment(m, s) - increment(t, s)).abs().max() < 1e-12
    assert abs(float(increment(t, s).var()) / (t - s) - 1) < 0.15
    assert abs(float((increment(t, m) * increment(m, s)).mean())) < 0.05
    assert not torch.equal(rng.fold("bridge", 1).step(0, t, s).normal((60, 20)), rng.fold("bridge").step(0, t, s).normal((60, 20)))


def test_a_finer_grid_refines_the_same_picture():
    path = schedules.vp()
    model, count = oracle.gaussian(path, torch.zeros(100, dtype=F64), 0.5), 2

    def run(steps, tree):
        rng = Rng.of(0, count, dtype=F64)
        x = path.prior((count, 100), rng=rng)
        return sample(model, x, grids.exponential(0.02)(path, steps), Exponential(2, eta=1.0), rng=Brownian(rng) if tree else rng)

    def moved(steps, tree):
        return float((run(steps, tree) - run(4 * steps, tree)).norm(dim=1).mean())

    assert moved(64, True) < 0.5 * moved(16, True) < 0.5 * moved(16, False)
    assert moved(64, True) < 0.3 * moved(64, False)


@pytest.mark.parametrize("solver", [DDIM(), DDIM(1.0), euler(), Exponential(1)], ids=["ddim", "ddpm", "euler", "exponential-1"])
@pytest.mark.parametrize("window", [0, 7])
def test_picard_finds_the_sequential_result(solver, window):
    path = schedules.vp()
    model, rng = mixture(path), Rng.of(3, 5, dtype=F64)
    x, grid = path.prior((5, 2), rng=rng), grids.uniform()(path, 40)
    found = picard(model, x, grid, solver, rng=rng, window=window, tolerance=0.0)
    assert (found.x - sample(model, x, grid, solver, rng=rng)).abs().max() < 1e-12
    rough = picard(model, x, grid, solver, rng=rng, window=window, tolerance=1e-3)
    assert (rough.x - found.x).abs().max() < 0.02
    assert rough.rounds <= found.rounds <= 40 and rough.saved == 40 - rough.rounds
    assert window or rough.saved >= 15


def test_picard_takes_a_grid_for_each_sample():
    path = schedules.flow()
    model, rng = mixture(path), Rng.of(3, 2, dtype=F64)
    one, two = grids.uniform()(path, 9), grids.quadratic()(path, 7)
    both = torch.stack([one, torch.cat([two, torch.zeros(2, dtype=F64)])], 1)
    x = path.prior((2, 2), rng=rng)
    for solver in (DDIM(), DDIM(1.0)):
        found = picard(model, x, both, solver, rng=rng, tolerance=0.0)
        assert (found.x - sample(model, x, both, solver, rng=rng)).abs().max() < 1e-12
