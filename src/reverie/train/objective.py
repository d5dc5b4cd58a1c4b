"""The denoising objective, its weights, and the laws of its times.

    x_t = alpha x_0 + sigma n,    loss = w(t) mean |output - (a x_0 + b n)|^2                                      (1)

The error is taken in the net's own units, where it is O(1) at every noise level. Published weights are weights of the error of
x_0; with x_0 = keep x + take output they become w_x0(t) take(t)^2 in those units, whatever the rule.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from reverie.card import remembers
from reverie.denoiser import Cond, Denoiser
from reverie.process.path import Path, like, time

Weight = Callable[[Denoiser, Tensor], Tensor]
Objective = Callable[[Denoiser, Tensor, Tensor, Tensor, Cond | None], Tensor]  # model, x0, t, n, cond -> loss (B,)
TimeLaw = Callable[[Path, Tensor], Tensor]  # the quantile function: u in (0, 1) -> t


def denoising(
    model: Denoiser,
    x0: Tensor,
    t: Tensor,
    n: Tensor,
    cond: Cond | None = None,
    *,
    weight: Weight | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Loss per sample (B,), eq. (1); x0 and n (B, ...), t (B,) or (). mask (B, 1, ...): how much each place counts in the mean."""
    t = time(t)
    a, b = model.rule(model.path, t)
    output = model.halves(model.path.mix(x0, n, t), t, cond)[0]
    error = (output - like(a, x0) * x0 - like(b, x0) * n).square()
    error = error.flatten(1).mean(1) if mask is None else heeded(error, mask)
    return error if weight is None else error * weight(model, t).to(error)


def heeded(error: Tensor, mask: Tensor) -> Tensor:
    """The mean (B,) of error (B, C, ...) over the places of mask (B, 1, ...), by their shares; no mask is 0 everywhere."""
    share = mask.to(error).expand_as(error).flatten(1)
    return (share * error.flatten(1)).sum(1) / share.sum(1)


def _of_x0(of_snr: Callable[[Denoiser, Tensor], Tensor]) -> Weight:
    """A published weight of the x_0 error, as a function of snr = alpha^2 / sigma^2."""

    def weight(model: Denoiser, t: Tensor) -> Tensor:
        return of_snr(model, (2 * model.path.lam(t)).exp()) * model.solution(t)[1] ** 2

    return weight


@remembers
def flat() -> Weight:
    """1 in the net's own units."""
    return lambda model, t: torch.ones_like(t)


@remembers
def min_snr(gamma: float = 5.0) -> Weight:
    """min(snr, gamma) on x_0 (arXiv 2303.09556)."""
    return _of_x0(lambda model, snr: snr.clamp(max=gamma))


@remembers
def edm_weight(sigma_data: float = 0.5) -> Weight:
    """(u^2 + s^2) / (u s)^2 on x_0, u = sigma / alpha (arXiv 2206.00364); flat for the edm rule on alpha = 1."""
    return _of_x0(lambda model, snr: snr + 1 / sigma_data**2)


@remembers
def sigmoid_weight(bias: float = -1.0) -> Weight:
    """sigmoid(bias - log snr) on eps (arXiv 2410.19324, eq. 10)."""
    return _of_x0(lambda model, snr: snr * torch.sigmoid(bias - snr.log()))


@remembers
def p2(k: float = 1.0, gamma: float = 1.0) -> Weight:
    """1 / (k + snr)^gamma on eps (arXiv 2204.00227, eq. 8)."""
    return _of_x0(lambda model, snr: snr / (k + snr) ** gamma)


WEIGHTS = (flat, min_snr, edm_weight, sigmoid_weight, p2)


@remembers
def uniform(least: float = 1e-3) -> TimeLaw:
    """t uniform in (least, 1)."""
    return lambda path, u: least + (1 - least) * u


def _normal_quantile(u: Tensor) -> Tensor:
    return torch.special.ndtri(u.clamp(1e-7, 1 - 1e-7))


@remembers
def logit_normal(mean: float = 0.0, deviation: float = 1.0) -> TimeLaw:
    """logit(t) ~ N(mean, deviation^2) (arXiv 2403.03206, eq. 19)."""
    return lambda path, u: torch.sigmoid(mean + deviation * _normal_quantile(u))


@remembers
def log_normal(mean: float = -1.2, deviation: float = 1.2) -> TimeLaw:
    """log(sigma / alpha) ~ N(mean, deviation^2) (arXiv 2206.00364, table 1), on any path."""
    return lambda path, u: path.t_of_lam(-(mean + deviation * _normal_quantile(u)))


TIMES = (uniform, logit_normal, log_normal)


def draw_times(law: TimeLaw, path: Path, count: int, generator: torch.Generator, stratified: bool = True) -> Tensor:
    """t (B,) float64. Stratified: one draw in each of B equal slices of probability, in random order."""
    u = torch.rand(count, generator=generator, dtype=torch.float64)
    if stratified:
        u = (torch.randperm(count, generator=generator) + u) / count
    return law(path, u)
