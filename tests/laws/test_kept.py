"""What is known of a picture stays known, on the path that ends there, under every solver; and what is freed is freed in time."""

import itertools

import pytest
import torch

from reverie.denoiser import OneByOne
from reverie.guide.kept import Beside, Kept, left
from reverie.oracle import gaussian
from reverie.process import grids, schedules
from reverie.rng import Rng
from reverie.solve import Resampled, named, sample, trace
from reverie.solve.table import ROWS

PATHS = {"cosine": schedules.cosine(), "edm": schedules.edm(), "flow": schedules.flow()}
SOURCE = torch.tensor([[[[0.5, -0.25], [0.75, 0.1]]]])

LOOSE = {"sa-solver": 1e-2, "ipndm-afs": 1e-2}
"""Solvers whose first step does not look at the model, or carries its error along: tasks lay what is kept over the picture."""


def kept(path, strength, steps=12, model=None):
    """(model, condition, grid, start) of one picture of 2x2 with these strengths."""
    grid = grids.uniform()(path, steps)
    model = Kept(gaussian(path, torch.full((1, 2, 2), 0.3), 0.2) if model is None else model, grid)
    start = path.prior(SOURCE.shape, rng=Rng.of(1), spread=1.0)
    return model, Beside(None, (SOURCE, torch.tensor(strength).reshape(1, 1, 2, 2))), grid, start


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("row", [r for r in ROWS if r.name != "ddpm-learned"], ids=lambda r: r.name)
def test_what_is_kept_ends_as_it_is_under_every_solver(name, row):
    model, cond, grid, x = kept(PATHS[name], [[0.0, 1.0], [0.0, 1.0]])
    grid = grid if row.family != "adaptive" else grid[[0, 6, 12]]
    end = sample(model, x, grid, row.make(), cond=cond, rng=Rng.of(1))
    torch.testing.assert_close(end[..., 0], SOURCE[..., 0], atol=LOOSE.get(row.name, 2e-5), rtol=0)
    assert (end[..., 1] - SOURCE[..., 1]).abs().max() > 1e-2


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("solver", ["ddim", "dpmpp-2m", "unipc-3", "heun", "ipndm"])
def test_on_the_way_it_is_the_source_with_one_noise_on_it(name, solver):
    path = PATHS[name]
    model, cond, grid, x = kept(path, [[0.0, 0.0], [0.0, 0.0]])
    alpha, sigma = path(grid[0])
    noise = (x - alpha * SOURCE) / sigma
    for step in trace(model, x.double(), grid, named(solver)[0], cond=cond):
        torch.testing.assert_close(step.x, path.mix(SOURCE.double(), noise.double(), step.s), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("steps", [10, 20, 25, 40])
def test_a_strength_is_the_share_of_the_way_in_which_a_place_is_free(steps):
    """Differential Diffusion: each of 51 strengths is met within half a step, and so within 2 per cent from 25 steps on."""
    path = PATHS["cosine"]
    strengths = torch.linspace(0, 1, 51)
    source, cond = torch.zeros(1, 1, 1, 51), None
    grid = grids.karras()(path, steps)
    cond = Beside(None, (source, strengths.reshape(1, 1, 1, 51)))
    model = Kept(gaussian(path, torch.full((1, 1, 51), 5.0), 0.1), grid)
    free = sum((model(source, t, cond) != 0).float() for t in grid[:-1]).flatten() / steps
    assert float((free - strengths).abs().max()) <= 0.5 / steps + 1e-6
    assert bool(free[0] == 0) and bool(free[-1] == 1)
    assert bool((free.diff() >= 0).all()), "more strength never frees a place later"
    if steps == 40:
        exact = [float(left(grid, t)) for t in grid]
        torch.testing.assert_close(
            torch.tensor(exact, dtype=torch.float64), torch.linspace(1, 0, 41, dtype=torch.float64), atol=1e-9, rtol=0
        )


def test_what_is_left_of_the_way_knows_each_sample_and_lies_between_knots():
    grid = torch.tensor([1.0, 0.5, 0.1, 0.0], dtype=torch.float64)
    t = torch.tensor([1.0, 0.75, 0.5, 0.3, 0.0], dtype=torch.float64)
    expected = torch.tensor([1.0, 5 / 6, 2 / 3, 0.5, 0.0], dtype=torch.float64)
    torch.testing.assert_close(left(grid, t), expected)
    assert all(float(left(grid, one)) == float(many) for one, many in zip(t, left(grid, t), strict=True))


def test_samples_of_a_batch_keep_their_own():
    path = PATHS["edm"]
    grid = grids.karras()(path, 6)
    model = Kept(gaussian(path, torch.full((1, 2, 2), 0.3), 0.2), grid)
    sources, strengths = torch.randn(3, 1, 2, 2), torch.rand(3, 1, 2, 2).round(decimals=1)
    x = path.prior((3, 1, 2, 2), rng=Rng.of(0, 3), spread=1.0)
    cond, solver = Beside(None, (sources, strengths)), named("restart")[0]
    whole = sample(model, x, grid, solver, cond=cond, rng=Rng.of(0, 3))
    for k in range(3):
        row = slice(k, k + 1)
        alone = sample(model, x[row], grid, solver, cond=cond[row], rng=Rng.of(k, 1))
        assert torch.equal(alone, whole[row])
    one = Kept(OneByOne(gaussian(path, torch.full((1, 2, 2), 0.3), 0.2)), grid)
    assert torch.equal(sample(one, x, grid, solver, cond=cond, rng=Rng.of(0, 3)), whole)


COVARIANCE = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.float64)


class Pair:
    """The exact denoiser of two numbers that are nearly alike: E[x_0 | x_t] = a C (a^2 C + s^2)^-1 x_t."""

    path = PATHS["cosine"]

    def __call__(self, x, t, cond=None):
        alpha, sigma = self.path(t)
        gain = alpha * COVARIANCE @ torch.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * torch.eye(2, dtype=torch.float64))
        return (x.flatten(1) @ gain.T).reshape(x.shape)


def error(times, steps=20, count=1000):
    """How far the second number's mean is from 0.9 times the first, which is 1.5 and known."""
    path, grid = Pair.path, grids.uniform()(Pair.path, steps)
    rng = Rng.of(0, count, dtype=torch.float64)
    x = path.prior((count, 1, 1, 2), rng=rng, spread=1.0)
    values = (torch.full((count, 1, 1, 2), 1.5, dtype=torch.float64), torch.tensor([0.0, 1.0]).expand(count, 1, 1, 2))
    solver = Resampled(named("ddpm")[0], tuple(grid.tolist()), times)
    end = sample(Kept(Pair(), grid), x, grid[::2], solver, cond=Beside(None, values), rng=rng)
    return abs(float(end[..., 1].mean()) - 0.9 * 1.5)


def test_resampling_makes_what_is_drawn_fit_what_is_kept():
    errors = [error(times) for times in (0, 2, 8)]
    assert errors[0] > 0.1, "replacement alone is wrong here, or the test says nothing"
    assert all(a > 1.5 * b for a, b in itertools.pairwise(errors)) and errors[2] < 0.1


def test_resampling_0_times_is_the_solver_itself():
    path = PATHS["cosine"]
    model, grid = gaussian(path, torch.full((3,), 0.3), 0.2), grids.uniform()(path, 12)
    x, rng = path.prior((2, 3), rng=Rng.of(1, 2), spread=1.0), Rng.of(1, 2)
    plain = sample(model, x, grid, named("dpmpp-2m")[0])
    coarse = sample(model, x, grid[::3], Resampled(named("dpmpp-2m")[0], tuple(grid.tolist()), 0), rng=rng)
    torch.testing.assert_close(coarse, plain, atol=1e-6, rtol=1e-6)
    with pytest.raises(ValueError, match="its own times"):
        sample(model, x, grids.uniform()(path, 5), Resampled(named("ddim")[0], tuple(grid.tolist()), 1), rng=rng)
