"""Couplings of a batch: they deal out what there is, cost less than chance, and make ways straighter; so does reflow."""

import numpy as np
import pytest
import torch
from paths import F64

from reverie import oracle
from reverie.denoiser import Cond
from reverie.distill.coupling import costs, exact, plan
from reverie.distill.pairs import Store, straightness
from reverie.process import schedules
from reverie.process.grids import karras, uniform
from reverie.solve import DDIM, heun

POINTS = torch.randn(40, 3, dtype=F64, generator=torch.Generator().manual_seed(1))
NOISE = torch.randn(40, 3, dtype=F64, generator=torch.Generator().manual_seed(2))


def test_exact_couplings_deal_out_every_noise_and_cost_least():
    which, cost = exact(POINTS, NOISE), costs(POINTS, NOISE)
    assert sorted(which.tolist()) == list(range(40))
    best = cost[torch.arange(40), which].mean()
    assert best < 0.5 * cost.diagonal().mean()
    made = torch.Generator().manual_seed(0)
    for _ in range(200):  # no exchange of two makes it cheaper
        i, j = torch.randperm(40, generator=made)[:2]
        assert cost[i, which[i]] + cost[j, which[j]] <= cost[i, which[j]] + cost[j, which[i]] + 1e-12


@pytest.mark.parametrize("epsilon", [0.02, 0.2, 2.0])
def test_sinkhorn_is_a_plan_between_the_exact_one_and_chance(epsilon):
    found, cost = plan(POINTS, NOISE, epsilon, rounds=3000), costs(POINTS, NOISE)
    torch.testing.assert_close(found.sum(1), torch.ones(40, dtype=F64))
    torch.testing.assert_close(found.sum(0), torch.ones(40, dtype=F64), atol=1e-3, rtol=0)
    best, chance = cost[torch.arange(40), exact(POINTS, NOISE)].mean(), cost.mean()
    worth = (found * cost).sum() / 40
    assert best - 1e-6 <= worth < chance
    assert worth < best * 1.1 if epsilon == 0.02 else worth > best * 1.05


def test_the_ways_of_one_gaussian_are_straight_and_those_of_two_are_not():
    path, x = schedules.flow(), torch.randn(64, 2, dtype=F64, generator=torch.Generator().manual_seed(3))
    one = oracle.gaussian(path, torch.zeros(2, dtype=F64), 0.0)
    assert float(straightness(one, x, uniform()(path, 60), DDIM()).max()) < 1e-6
    means = torch.tensor([[2.0, 0], [-2.0, 0]], dtype=F64)
    two = oracle.Mixture(path, means, torch.full((2,), 0.2, dtype=F64), torch.full((2,), 0.5, dtype=F64))
    bent = straightness(two, x, uniform()(path, 60), heun()).mean()
    assert float(bent) > 0.02
    # the ideal reflow of what it makes: of pairs that do not cross, so that each point of the way knows its own end
    store = Store(two, 64, (2,), heun(), uniform()(path, 60), seed=4)
    x0, n, _ = store(torch.arange(64).numpy())

    class Reflowed:
        def __init__(self):
            self.path = path

        def __call__(self, x, t, cond: Cond | None = None):
            alpha, sigma = (float(c) for c in path(t))
            far = torch.cdist(x.double(), alpha * x0.double() + sigma * n.double())
            return x0[far.argmin(1)].to(x)

    again = straightness(Reflowed(), n[:64], uniform()(path, 30), DDIM()).mean()
    assert float(again) < 0.3 * float(bent)


def test_pairs_depend_on_their_numbers_alone():
    path = schedules.edm()
    teacher = oracle.gaussian(path, torch.zeros(2), 0.5)
    grid = karras()(path, 6)
    one, two = (Store(teacher, 8, (2,), DDIM(), grid, seed=3) for _ in range(2))

    whole = one(np.arange(8))
    parts = [two(np.array(rows)) for rows in ([5, 1], [0, 1, 7], [2, 3, 4, 6])]
    for k, rows in enumerate(([5, 1], [0, 1, 7], [2, 3, 4, 6])):
        for a, b in zip(whole[:2], parts[k][:2], strict=True):
            torch.testing.assert_close(a[rows], b)
    assert whole[2] is None and len(one) == 8
