"""Solvers in use: from many threads, with times and numbers of steps of one's own, and asked for the impossible."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from reverie import oracle
from reverie.denoiser import Denoiser
from reverie.errors import UserError
from reverie.process import grids, rules, schedules
from reverie.rng import Rng
from reverie.solve import (
    ERSDE,
    Adams,
    Adaptive,
    Corrected,
    Exponential,
    Langevin,
    Renoise,
    Restart,
    Single,
    heun,
    ipndm,
    named,
    sample,
    unipc,
)

F64 = torch.float64
PATH = schedules.vp()
MODEL = oracle.empirical(PATH, torch.tensor([[1.0, 0.2], [-0.5, 0.8], [0.1, -1.0]], dtype=F64))
NAMES = ("ddim", "ddpm", "dpmpp-2m", "dpmpp-3m", "dpmpp-2m-sde", "unipc-2", "ipndm", "lms", "heun", "er-sde-3", "pndm", "rk23")


@pytest.mark.parametrize("name", NAMES)
def test_one_solver_in_eight_threads_is_the_solver_alone(name):
    solver, grid = named(name)[0], grids.karras()(PATH, 8)

    def run(seed):
        rng = Rng.of(seed, 2, dtype=F64)
        return sample(MODEL, PATH.prior((2, 2), rng=rng), grid, solver, rng=rng)

    alone = [run(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(run, range(8)))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("name", [n for n in NAMES if n != "rk23"])
def test_samples_of_a_batch_may_take_different_numbers_of_steps(name):
    """The shorter grid has arrived while the longer goes on."""
    solver = named(name)[0]
    long, short = grids.karras()(PATH, 8), grids.karras()(PATH, 5)
    both = torch.stack([long, torch.cat([short, torch.zeros(3, dtype=F64)])], 1)
    rng = Rng.of(3, 2, dtype=F64)
    x = PATH.prior((2, 2), rng=rng)
    together = sample(MODEL, x, both, solver, rng=rng)
    for k, grid in enumerate((long, short)):
        alone = sample(MODEL, x[k : k + 1], grid, solver, rng=rng[k : k + 1])
        assert (together[k] - alone[0]).abs().max() < 1e-10, k


BAD = {
    "order 0": lambda: Exponential(0),
    "order 5": lambda: Exponential(5),
    "heun with noise": lambda: Exponential(2, eta=1.0, start="heun"),
    "stages": lambda: Single(4),
    "adams": lambda: Adams(0),
    "adams start": lambda: Adams(2, start="euler"),
    "corrected": lambda: Corrected(2, "bh3"),
    "corrected noise": lambda: Corrected(2, "bh2", eta=1.0),
    "er": lambda: ERSDE(4),
    "renoise multistep": lambda: Renoise(ipndm()),
    "restart": lambda: Restart(heun(), low=2.0, high=1.0),
    "langevin": lambda: Langevin(ratio=2.0),
    "tolerance": lambda: Adaptive(heun(), rtol=0.0),
    "rising grid": lambda: sample(MODEL, torch.zeros(1, 2), torch.tensor([0.0, 1.0]), unipc()),
    "beyond the path": lambda: sample(MODEL, torch.zeros(1, 2), torch.tensor([1.5, 0.0]), unipc()),
    "no steps": lambda: grids.karras()(PATH, 0),
    "one knot": lambda: sample(MODEL, torch.zeros(1, 2), torch.tensor([1.0]), unipc()),
    "NaN in a grid": lambda: sample(MODEL, torch.zeros(1, 2), torch.tensor([1.0, float("nan"), 0.0]), unipc()),
}


@pytest.mark.parametrize("what", BAD)
def test_the_impossible_is_one_clear_error(what):
    with pytest.raises(UserError) as error:
        BAD[what]()
    assert len(str(error.value)) > 20 and "\n" not in str(error.value)


def test_a_net_of_noise_cannot_begin_where_nothing_is_left_of_the_data():
    path = schedules.zero_snr(schedules.scaled_linear_table())
    model = Denoiser(torch.nn.Identity(), path, rules.eps())
    model.net.forward = lambda x, t, **_: x
    with pytest.raises(UserError, match="says nothing about x0"):
        sample(model, torch.zeros(1, 2), grids.trailing()(path, 4), Exponential(2))


@pytest.mark.parametrize("name", ["heun", named("heun")])
def test_a_name_is_not_yet_a_solver(name):
    with pytest.raises(UserError, match=r"takes no steps: give reverie.solve.named\('heun'\)\[0\]"):
        sample(MODEL, torch.zeros(1, 2, dtype=F64), grids.karras()(PATH, 3), name)
