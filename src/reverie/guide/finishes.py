"""Guides that act on the guided estimate itself: its deviation, its range, its temperature."""

import torch
from torch import Tensor

from reverie.card import remembers
from reverie.errors import UserError
from reverie.guide.guidance import At, Guide, adding
from reverie.process.path import like


@remembers
def rescale(phi: float = 0.7) -> Guide:
    """Moves each sample's standard deviation towards that of the plain estimate by phi (arXiv:2305.08891, eq. 15-16)."""
    if not 0 <= phi <= 1:
        raise UserError(f"rescale: phi is {phi}; it is a share, between 0 and 1")

    def finish(at: At, guided: Tensor) -> Tensor:
        axes = tuple(range(1, guided.ndim))
        ratio = at.c.std(axes, keepdim=True) / guided.std(axes, keepdim=True).clamp(min=1e-12)
        return guided * (1 + phi * (ratio - 1))

    return adding(finish=finish)


@remembers
def threshold(percentile: float = 0.995, limit: float = 1.0) -> Guide:
    """Dynamic thresholding of data in [-limit, limit] (arXiv:2205.11487, section 2.3)."""
    if not (0 < percentile <= 1 and limit > 0):
        raise UserError(f"threshold: percentile is {percentile}, of 0 to 1, and limit {limit}, above 0: one of them is not")

    def finish(at: At, guided: Tensor) -> Tensor:
        reach = like(quantile(guided.flatten(1).abs().float(), percentile).clamp(min=limit), guided)
        return guided.clamp(-reach, reach) / reach * limit

    return adding(finish=finish)


@remembers
def clamp(limit: float = 1.0) -> Guide:
    """Static thresholding: the estimate is kept in [-limit, limit]."""
    if not limit > 0:
        raise UserError(f"clamp: limit is {limit}; the data lie between -limit and limit, so it is above 0")
    return adding(finish=lambda at, guided: guided.clamp(-limit, limit))


@remembers
def temperature(tau: float = 0.9, deviation: float = 0.5) -> Guide:
    """Scales the score by (alpha^2 d^2 + sigma^2) / (alpha^2 tau d^2 + sigma^2): 1 where all is noise, 1 / tau at the data.

    Of Gaussian data of deviation d, whatever its mean, samples have tau times the variance, p(x)^(1/tau), with any solver (after
    Ingraham et al., bioRxiv 2022.12.01.518682, appendix B). A constant factor 1 / tau would leave noise in, or collapse the data,
    as far as the noise of the first step decides.
    """
    if not (tau > 0 and deviation > 0):
        raise UserError(f"temperature: tau is {tau} and deviation {deviation}; both are above 0")

    def finish(at: At, guided: Tensor) -> Tensor:
        alpha, sigma = at.path(at.t)
        cool = (alpha * deviation) ** 2 * tau + sigma**2
        factor = ((alpha * deviation) ** 2 + sigma**2) / cool
        return like(alpha * deviation**2 * (tau - 1) / cool, guided) * at.x + like(factor, guided) * guided

    return adding(finish=finish)


def quantile(rows: Tensor, share: float) -> Tensor:
    """The quantile of each row (B, N), linear between neighbours, for any N: torch.quantile refuses more than 2^24."""
    low, part = divmod(share * (rows.shape[1] - 1), 1)
    least = rows.kthvalue(int(low) + 1, 1).values
    return least if not part else torch.lerp(least, rows.kthvalue(int(low) + 2, 1).values, part)
