"""Law 6: SDE solvers reproduce the mean and variance of a Gaussian, exactly accounted for where their steps are linear.

On a Gaussian every estimate is linear in x, and so is a whole trajectory: x_end = a x_1 + b + sum c_k z_k. A batch in which each
sample sees one of the noises, and nothing else, gives all of the coefficients, and with them the moments to machine precision.
"""

import math

import pytest
import torch
from paths import F64, PATHS

from reverie import oracle
from reverie.process import grids
from reverie.rng import Rng
from reverie.solve import (
    DDIM,
    ERSDE,
    Churn,
    Corrected,
    Exponential,
    Langevin,
    Maruyama,
    Renoise,
    Restart,
    Single,
    adaptive_sde,
    euler,
    heun,
    midpoint,
    sa_solver,
    sample,
)

MEAN, DEVIATION, EACH = 0.5, 0.6, 3
LINEAR = {
    "ddpm": (DDIM(1.0), 1),
    "half": (DDIM(0.5), 1),
    "beta": (DDIM(1.0, share=1.0), 1),
    "sde-1": (Exponential(1, eta=1.0), 1),
    "sde-2": (Exponential(2, eta=1.0), 2),
    "sde-2-published": (Exponential(2, eta=1.0, published=True), 2),
    "sde-2-half": (Exponential(2, eta=0.5), 2),
    "sde-2-noise": (Exponential(2, eta=1.0, of="noise"), 2),
    "sde-3": (Exponential(3, eta=1.0), 2),
    "seeds-2": (Single(2, eta=1.0), 2),
    "seeds-3": (Single(3, eta=1.0), 2),
    "euler-a": (Renoise(euler()), 1),
    "dpm2-a": (Renoise(midpoint()), 1),
    "dpmpp-2s-a": (Renoise(Single(2)), 1),
    "er-sde-1": (ERSDE(1), 1),
    "er-sde-2": (ERSDE(2), 2),
    "er-sde-3": (ERSDE(3), 2),
    "sa-2": (Corrected(2, "polynomial", eta=1.0), 2),
    "sa-3": (Corrected(3, "polynomial", eta=1.0), 2),
    "maruyama": (Maruyama(), 1),
    "heun-sde": (Maruyama(heun=True), 2),
}


class Probe:
    """In place of an `Rng`: sample 2 + k sees noise k as 1, and no other; samples 0 and 1 see none."""

    def __init__(self, k=0):
        self.k = k

    def step(self, index, t, s):
        return Probe(index * EACH)

    def fold(self, purpose, step=0):
        return Probe(self.k + step) if purpose == "bridge" else self

    def normal(self, shape):
        z = torch.zeros(shape, dtype=F64)
        z[2 + self.k] = 1.0
        return z


def gaps(path, solver, n, low=-2.0, high=3.5):
    """Errors of the mean and of the variance, as shares of the deviation and variance there."""
    model = oracle.gaussian(path, torch.tensor([MEAN], dtype=F64), DEVIATION)
    grid = path.t_of_lam(torch.linspace(low, high, n + 1, dtype=F64))
    x = torch.zeros(2 + n * EACH, 1, dtype=F64)
    x[1] = 1.0
    y = sample(model, x, grid, solver, rng=Probe())
    (a0, s0), (a1, s1) = path(grid[0]), path(grid[-1])
    b, gain, shares = y[0], y[1] - y[0], y[2:] - y[0]
    variance = gain**2 * (a0**2 * DEVIATION**2 + s0**2) + shares.square().sum()
    truth = a1**2 * DEVIATION**2 + s1**2
    return abs(float((gain * a0 * MEAN + b - a1 * MEAN) / truth.sqrt())), abs(float(variance / truth - 1))


@pytest.mark.parametrize("path", ["vp", "flow", "edm"])
@pytest.mark.parametrize("name", LINEAR)
def test_law_6_moments_and_their_weak_order(path, name):
    path, (solver, order) = PATHS[path], LINEAR[name]
    (_, coarse), (mean, fine) = gaps(path, solver, 48), gaps(path, solver, 96)
    assert mean < 0.01 and fine < 0.1
    assert math.log2(coarse / fine) > order - 0.3


MONTE_CARLO = {
    "churn": (Churn(heun(), amount=20, steps=60), 60),
    "restart": (Restart(heun(), times=3), 30),
    "restart-near": (Restart(heun(), low=1.0, high=2.0, times=3), 30),
    "predictor-corrector": (Langevin(DDIM(1.0), steps=2, ratio=0.05), 60),
    "langevin": (Langevin(steps=60, ratio=0.2), 40),
    "sa-solver": (sa_solver(3), 40),
    "adaptive-sde": (adaptive_sde(), 1),
}


@pytest.mark.parametrize("path", ["vp", "flow", "edm"])
@pytest.mark.parametrize("name", MONTE_CARLO)
def test_law_6_solvers_that_are_not_linear(path, name):
    path, (solver, steps) = PATHS[path], MONTE_CARLO[name]
    n, width = (4, 1000) if name == "adaptive-sde" else (40, 100)
    model = oracle.gaussian(path, torch.full((width,), MEAN, dtype=F64), DEVIATION)
    rng = Rng.of(0, n, dtype=F64)
    x = model.draw(rng.fold("data")) * path(1.0)[0] + path.prior((n, width), rng=rng)
    y = sample(model, x, grids.karras(smallest=0.01)(path, steps), solver, rng=rng)
    tolerance = 4 / math.sqrt(width * n) + 0.02
    assert abs(float(y.mean()) - MEAN) < DEVIATION * tolerance
    assert abs(float(y.std()) / DEVIATION - 1) < tolerance
