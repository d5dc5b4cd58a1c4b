"""The variational bound: tight where it must be, above the truth elsewhere, and deaf to the mean where it trains the variance."""

import math

import numpy as np
import pytest
import torch
from paths import F64
from test_loss import Exact
from torch import nn

from reverie.denoiser import Denoiser, timestep
from reverie.process import grids, rules, schedules
from reverie.rng import Rng
from reverie.train.bound import bits_per_dim, hybrid, variational

DEVIATION, COUNT = 0.6, 3000


def setting(path, rule):
    """The exact denoiser of N(0, DEVIATION^2), data of it, and the entropy of its density in bits."""
    net = Exact(path, rule, 0.0, DEVIATION)
    model = Denoiser(Scaled(net, path), path, rule, timestep(1.0), sigma_data=DEVIATION)
    x0 = DEVIATION * Rng((1,), dtype=F64, whole=True).normal((COUNT, 2))
    nats = math.log(2 * math.pi * DEVIATION**2) / 2 + (x0 / DEVIATION) ** 2 / 2
    return model, x0, nats.mean(1) / math.log(2)


class Scaled(nn.Module):
    """Undoes the scaling of the input, for a net that wants x itself."""

    def __init__(self, net, path):
        super().__init__()
        self.net, self.path = net, path

    def forward(self, x, t):
        alpha, sigma = self.path(t)
        return self.net(x * (alpha**2 * DEVIATION**2 + sigma**2).sqrt()[:, None], t)


PATHS = {"cosine": schedules.cosine(), "flow": schedules.flow(), "zero_snr": schedules.zero_snr(schedules.vp())}


@pytest.mark.parametrize("path", PATHS)
def test_with_the_true_variance_the_bound_is_the_likelihood_on_any_grid(path):
    """For Gaussian data eq. (4) is the variance of the exact reverse step, and alpha(1) = 0 leaves the prior no gap."""
    model, x0, truth = setting(PATHS[path], rules.v())
    for steps in (2, 5, 11):
        grid, rng = grids.uniform()(model.path, steps), Rng((2,), dtype=F64, whole=True)
        gap = bits_per_dim(model, x0, grid, rng, share=1.0, levels=0).total - truth
        assert abs(float(gap.mean())) < 4.5 * float(gap.std()) / COUNT**0.5


@pytest.mark.parametrize("path", PATHS)
def test_with_the_posterior_variance_the_bound_falls_to_the_likelihood(path):
    model, x0, truth = setting(PATHS[path], rules.v())
    gaps = []
    for steps in (8, 24, 72):
        grid = grids.exponential(0.05, 50.0)(model.path, steps)
        total = bits_per_dim(model, x0, grid, Rng((2,), dtype=F64, whole=True), levels=0).total
        gaps.append(float((total - truth).mean()))
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2] > 0, gaps


@pytest.mark.parametrize(("spread", "share"), [(DEVIATION, 0.0), (None, 1.0), (None, 0.5)])
def test_each_step_is_a_divergence_of_two_gaussians(spread, share):
    """With d = 1 on a variance-preserving path, eq. (3) and (4) are beta~ and beta of arXiv 2102.09672."""
    path, t, s = schedules.vp(), 0.6, 0.4
    model, x0, _ = setting(path, rules.eps())
    net = model.net if spread else model.net.net
    model = Denoiser(net, path, model.rule, model.clock, sigma_data=spread)
    (alpha, sigma), (alpha_s, sigma_s) = path(t), path(s)
    beta = 1 - (alpha / alpha_s) ** 2
    posterior, most = beta * sigma_s**2 / sigma**2, beta if spread is None else None
    n = Rng((3,), dtype=F64, whole=True).normal(x0.shape)
    x = path.mix(x0, n, t)

    def step(clean, variance):
        mean = (alpha / alpha_s * sigma_s**2 * x + alpha_s * beta * clean) / sigma**2
        return torch.distributions.Normal(mean, variance.sqrt().expand_as(x))

    chosen = posterior if share == 0 else most**share * posterior ** (1 - share)
    nats = torch.distributions.kl_divergence(step(x0, posterior), step(model(x, t), chosen))
    assert (variational(model, x0, t, s, n, share=share) - nats.mean(1) / math.log(2)).abs().max() < 1e-12


@pytest.mark.parametrize("mean", [0.37, 1.2, -1.5])
@pytest.mark.parametrize("t", [0.9, 0.05, 0.003])
def test_bins_of_8_bit_data_share_out_the_whole_mass(t, mean):
    """The likelihoods of all 256 values of a pixel sum to 1, wherever the mean and however wide."""
    levels, path = torch.linspace(-1, 1, 256, dtype=F64)[:, None], schedules.flow()
    alpha, sigma = path(t)
    model = Denoiser(nn.Flatten(), path, rules.x0(), timestep(1.0))
    model.net.forward = lambda x, t: x
    bits = variational(model, levels, t, 0.0, (mean - alpha * levels) / sigma)  # the same x_t for each value
    assert abs(float((2**-bits).sum()) - 1) < 1e-9


class Learned(nn.Module):
    """Two linear maps: the mean's and the variance's."""

    def __init__(self):
        super().__init__()
        self.mean, self.variance = nn.Linear(3, 3, dtype=F64), nn.Linear(3, 3, dtype=F64)

    def forward(self, x, t):
        return torch.cat([self.mean(x), self.variance(x)], 1)


@pytest.mark.parametrize("s", [0.0, 0.2])
def test_the_bound_does_not_train_the_mean_in_the_hybrid_loss(s):
    torch.manual_seed(0)
    net = Learned()
    model = Denoiser(net, schedules.cosine(), rules.eps(), timestep(1.0), learned_variance=True)
    rng = Rng.of(0, 5, dtype=F64)
    x0, n, t = rng.fold("x").normal((5, 3)).clamp(-1, 1), rng.normal((5, 3)), torch.full((5,), 0.5, dtype=F64)

    def gradients(scale):
        net.zero_grad()
        hybrid(model, x0, t, torch.full_like(t, s), n, scale=scale).mean().backward()
        return net.mean.weight.grad.clone(), net.variance.weight.grad.clone()

    (mean, none), (mean_too, some) = gradients(0.0), gradients(10.0)
    assert torch.equal(mean, mean_too)
    assert float(none.abs().max()) == 0 and float(some.abs().max()) > 0


class Told(nn.Module):
    """The exact mean of data N(0, deviation^2) as eps, and one variance channel for all."""

    def __init__(self, path, deviation, channel):
        super().__init__()
        self.path, self.deviation, self.channel = path, deviation, channel

    def forward(self, x, t):
        alpha, sigma = self.path(t[:1].to(F64))
        return torch.cat([x * sigma / (alpha**2 * self.deviation**2 + sigma**2), torch.full_like(x, self.channel)], 1)


def test_the_hybrid_loss_is_least_at_the_true_variance():
    """Data narrower than eq. (4) takes it to be: the best channel is where x_s really has its variance."""
    deviation, t, s = 0.3, 0.5, 0.3
    path = schedules.cosine()
    (alpha, sigma), (alpha_s, sigma_s) = ((float(v) for v in path(torch.tensor(u, dtype=F64))) for u in (t, s))
    added = sigma**2 - (alpha / alpha_s * sigma_s) ** 2
    least = sigma_s**2 * added / sigma**2
    most = added * (alpha_s**2 + sigma_s**2) / (alpha**2 + sigma**2)
    true = added * (alpha_s**2 * deviation**2 + sigma_s**2) / (alpha**2 * deviation**2 + sigma**2)
    best = 2 * math.log(true / least) / math.log(most / least) - 1
    assert -0.9 < best < 0.9
    rng = Rng.of(0, 40_000, dtype=F64)
    x0, n = deviation * rng.fold("x").normal((40_000, 1)), rng.normal((40_000, 1))
    times = torch.full((40_000,), t, dtype=F64)

    def loss(channel):
        model = Denoiser(Told(path, deviation, channel), path, rules.eps(), timestep(1.0), learned_variance=True)
        return float(hybrid(model, x0, times, torch.full_like(times, s), n, levels=0).mean())

    channels = [best + d for d in (-0.3, -0.1, 0.0, 0.1, 0.3)]
    assert np.argmin([loss(c) for c in channels]) == 2
