"""Averages of weights are what they claim to be."""

import numpy as np
import pytest
import torch
from torch import nn

from reverie.train import PowerEma, combine
from reverie.train.ema import power_of


@pytest.mark.parametrize("width", [0.05, 0.10, 0.2])
def test_the_average_is_the_integral_of_its_profile(width):
    """average_t = sum over tau of theta_tau int (g + 1) / t (u / t)^g du over its step."""
    module, steps = nn.Linear(1, 1, bias=False, dtype=torch.float64), 60
    theta = np.cos(np.arange(1, steps + 1) / 9)
    ema = PowerEma(module, (width,))
    for step in range(1, steps + 1):
        nn.init.constant_(module.weight, theta[step - 1])
        ema.update(module, step)
    edges = (np.arange(steps + 1) / steps) ** (power_of(width) + 1)
    assert float(ema.averages[0]["weight"]) == pytest.approx(float((theta * np.diff(edges)).sum()), rel=1e-12)
    u = (np.arange(10**5) + 0.5) / 10**5
    profile = (power_of(width) + 1) * u ** power_of(width) / 10**5
    mean = (profile * u).sum()
    assert ((profile * (u - mean) ** 2).sum()) ** 0.5 == pytest.approx(width, rel=1e-3)


@pytest.mark.parametrize("width", [0.03, 0.07, 0.15])
def test_another_width_is_made_from_stored_averages(width):
    module, steps = nn.Linear(20, 1, bias=False, dtype=torch.float64), 640
    ema, direct, stored = PowerEma(module, (0.05, 0.10)), PowerEma(module, (width,)), []
    rng = np.random.default_rng(0)
    end, wander = rng.normal(size=20), np.zeros(20)
    for step in range(1, steps + 1):
        wander = 0.97 * wander + 0.1 * rng.normal(size=20)
        theta = end * (1 - np.exp(-step / 150)) + wander  # a way to somewhere, with noise
        module.weight.data[0] = torch.from_numpy(theta)
        ema.update(module, step)
        direct.update(module, step)
        if step % (steps // 16) == 0:
            stored += [(step, w, {k: v.clone() for k, v in a.items()}) for w, a in zip(ema.widths, ema.averages, strict=True)]
    truth, made = direct.averages[0]["weight"], combine(stored, width)["weight"]
    assert float((made - truth).norm() / truth.norm()) < 0.015
    nearest = min(float((a["weight"] - truth).norm() / truth.norm()) for a in ema.averages)
    assert float((made - truth).norm() / truth.norm()) < 0.5 * nearest  # and better than the nearer of the two
