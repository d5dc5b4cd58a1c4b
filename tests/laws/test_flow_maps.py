"""Flow maps: where every jump is exact, any number of them is, with noise put back or without."""

import pytest
import torch
from paths import F64, PATHS, SMOOTH

from reverie import oracle
from reverie.denoiser import Cond, OneByOne
from reverie.guide import Guided
from reverie.process.path import like
from reverie.rng import Rng
from reverie.solve import DDIM, Renoise, sample

MEAN, DEVIATION = torch.tensor([0.6, -1.1], dtype=F64), 0.4


def grid(steps):
    return torch.linspace(1, 0, steps + 1, dtype=F64)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("name", PATHS)
def test_jumps_end_where_the_probability_flow_does(name, steps):
    path = PATHS[name]
    flow = oracle.GaussianMap(path, MEAN, DEVIATION)
    x = path.prior((6, 2), rng=Rng.of(1, 6), spread=1.0).double()
    alpha, sigma = path(1.0)
    exact = MEAN + DEVIATION * (x - alpha * MEAN) / (alpha**2 * DEVIATION**2 + sigma**2).sqrt()
    made = sample(flow, x, grid(steps), DDIM())
    torch.testing.assert_close(made, exact, atol=1e-9, rtol=1e-9)
    several = torch.stack([grid(steps), grid(steps) ** 1.5], 1).repeat(1, 3)  # samples on grids of their own
    torch.testing.assert_close(sample(OneByOne(flow), x, several, DDIM()), exact, atol=1e-9, rtol=1e-9)


def test_without_a_target_it_is_the_denoiser():
    for path in SMOOTH.values():
        flow, plain = oracle.GaussianMap(path, MEAN, DEVIATION), oracle.gaussian(path, MEAN, DEVIATION)
        x, t = torch.randn(5, 2, dtype=F64, generator=torch.Generator().manual_seed(0)), torch.linspace(0.2, 0.9, 5, dtype=F64)
        torch.testing.assert_close(flow(x, t), plain(x, t))
        near = flow(x, t, Cond(target=t - 1e-6))  # and so is a jump of no length
        torch.testing.assert_close(near, plain(x, t), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", ["vp", "edm", "flow"])
def test_noise_that_is_put_back_leaves_the_marginal(name, gamma):
    path, count = PATHS[name], 20000
    flow = oracle.GaussianMap(path, MEAN, DEVIATION)
    x = torch.randn(count, 2, dtype=F64, generator=torch.Generator().manual_seed(3))
    alpha, sigma = path(1.0)
    x = alpha * MEAN + (alpha**2 * DEVIATION**2 + sigma**2).sqrt() * x
    made = sample(flow, x, grid(3), Renoise(DDIM(), gamma=gamma), rng=Rng((5,), dtype=F64, whole=True))
    torch.testing.assert_close(made.mean(0), MEAN, atol=4 * DEVIATION / count**0.5, rtol=0)
    torch.testing.assert_close(made.std(0), torch.full((2,), DEVIATION, dtype=F64), atol=0, rtol=0.02)


def test_both_halves_of_guidance_aim_at_the_same_time():
    path = PATHS["flow"]
    seen = []

    class Told(oracle.GaussianMap):
        def __call__(self, x, t, cond=None):
            seen.append(cond.target)
            return super().__call__(x, t, cond) + 0 * like(cond.vector[:, 0], x)

    flow = Told(path, MEAN, DEVIATION)
    empty, said = (Cond(vector=torch.full((4, 1), v, dtype=F64)) for v in (0.0, 1.0))
    x = path.prior((4, 2), rng=Rng.of(1, 4)).double()
    sample(Guided(flow, 2.0, empty), x, grid(2), DDIM(), cond=said)
    assert [aim.tolist() for aim in seen] == [[0.5] * 8, [0.0] * 8]
