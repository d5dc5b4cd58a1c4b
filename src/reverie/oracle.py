"""Exact denoisers of known distributions: the truth that the laws compare with.

For Gaussian noise, data made of Gaussians has a closed posterior mean. With x_t = alpha x_0 + sigma n and x_0 ~ N(m, s^2 I):

    E[x_0 | x_t] = m + alpha s^2 / (alpha^2 s^2 + sigma^2) (x_t - alpha m)                                        (1)

and a mixture weighs its components by their share of the evidence N(x_t; alpha m_k, (alpha^2 s_k^2 + sigma^2) I). A Dirac is s = 0;
an empirical distribution is a mixture of Diracs.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.denoiser import Cond
from reverie.process.path import Path, like, time
from reverie.rng import Rng


@dataclass(frozen=True)
class Mixture:
    """A mixture of isotropic Gaussians: means (K, ...), deviations (K,), weights (K,) that sum to 1."""

    path: Path
    means: Tensor
    deviations: Tensor
    weights: Tensor

    def evidence(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """log of weight times density (B, K); alpha and variance of each component (B, 1), (B, K)."""
        alpha, sigma = (c.expand(x.shape[0])[:, None].to(x) for c in self.path(time(t)))
        variance = alpha**2 * self.deviations.to(x) ** 2 + sigma**2
        gap = x.flatten(1)[:, None] - alpha[..., None] * self.means.to(x).flatten(1)
        size = gap.shape[-1]
        square = gap.square().sum(-1) / variance
        return self.weights.to(x).log() - (square + size * (2 * math.pi * variance).log()) / 2, alpha, variance

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond | None = None) -> Tensor:
        """E[x_0 | x_t], eq. (1) averaged over components."""
        evidence, alpha, variance = self.evidence(x, t)
        share = evidence.softmax(-1)  # (B, K)
        gain = alpha * self.deviations.to(x) ** 2 / variance
        means = self.means.to(x).flatten(1)
        centre = (share * (1 - gain * alpha)) @ means
        slope = (share * gain).sum(-1)
        return centre.reshape(x.shape) + like(slope, x) * x

    def log_prob(self, x: Tensor, t: Tensor | float = 0.0) -> Tensor:
        """log density of x_t (B,), in nats."""
        return self.evidence(x, t)[0].logsumexp(-1)

    def draw(self, rng: Rng) -> Tensor:
        """x_0, one per seed."""
        shape = (len(rng.seeds), *self.means.shape[1:])
        u = rng.fold("component").uniform((shape[0],))
        k = torch.searchsorted(self.weights.to(u).cumsum(0), u).clamp(max=len(self.weights) - 1)
        n = rng.fold("component").fold("noise").normal(shape)
        return self.means.to(n)[k] + like(self.deviations.to(n)[k], n) * n


@dataclass(frozen=True)
class GaussianMap:
    """The flow map of N(mean, deviation^2 I), mean (...): along the probability flow its points stay as many deviations out,

        x_s = alpha_s m + (x_t - alpha_t m) sqrt(alpha_s^2 d^2 + sigma_s^2) / sqrt(alpha_t^2 d^2 + sigma_t^2).       (2)

    It is said as the clean estimate that `Path.bridge` makes x_s of; aimed at t itself, that is eq. (1).
    """

    path: Path
    mean: Tensor
    deviation: float | Tensor
    hears: tuple[str, ...] = ("target",)

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond | None = None) -> Tensor:
        t = time(t).expand(x.shape[0])
        s = t if cond is None or cond.target is None else cond.target.expand(x.shape[0])
        (alpha, sigma), (alpha_s, sigma_s) = self.path(t), self.path(s)
        d = torch.as_tensor(self.deviation, dtype=torch.float64)
        far, near = (alpha**2 * d**2 + sigma**2).sqrt(), (alpha_s**2 * d**2 + sigma_s**2).sqrt()
        keep = sigma_s / sigma
        gain = torch.where(s == t, alpha * d**2 / far**2, (near / far - keep) / torch.where(s == t, 1.0, alpha_s - keep * alpha))
        mean = self.mean.to(x)
        return mean + like(gain, x) * (x - like(alpha, x) * mean)


def gaussian(path: Path, mean: Tensor, deviation: float) -> Mixture:
    """One Gaussian N(mean, deviation^2 I); mean (...)."""
    one = torch.ones(1, dtype=torch.float64)
    return Mixture(path, mean[None], deviation * one, one)


def dirac(path: Path, point: Tensor) -> Mixture:
    """All the mass in one point (...)."""
    return gaussian(path, point, 0.0)


def empirical(path: Path, data: Tensor) -> Mixture:
    """The data themselves (N, ...), equally likely: what a net that memorises converges to."""
    n = len(data)
    return Mixture(path, data, torch.zeros(n, dtype=torch.float64), torch.full((n,), 1 / n, dtype=torch.float64))
