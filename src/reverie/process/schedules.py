"""The named schedules: each one function that returns a `Path`.

Continuous limits of the published ones, and discrete tables for nets that were trained on integer steps. Every path reaches
sigma = 0 exactly at t = 0.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from reverie.card import remembers
from reverie.errors import UserError
from reverie.process.noise import NoiseLaw, gaussian
from reverie.process.path import Path
from reverie.process.spacing import inside

Curve = Callable[[Tensor], Tensor]
PLAIN = gaussian()


def variance_preserving(log_alpha: Curve, noise: NoiseLaw = PLAIN) -> Path:
    """alpha = exp(log_alpha), sigma^2 = 1 - alpha^2, without cancellation near t = 0."""
    return Path(lambda t: log_alpha(t).exp(), lambda t: (-torch.expm1(2 * log_alpha(t))).clamp(min=0).sqrt(), noise)


def _rates(name: str, beta_min: float, beta_max: float) -> None:
    """UserError unless noise is added at these rates, and some of the data is left in float64."""
    inside(f"{name}: beta_min", beta_min, 0, 1000)
    inside(f"{name}: beta_max", beta_max, 1e-6, 1000)


def _rising(name: str, low: tuple[str, float], high: tuple[str, float]) -> None:
    if low[1] >= high[1]:
        raise UserError(f"{name}: {low[0]} is {low[1]} and {high[0]} is {high[1]}; {low[0]} must be less")


def _one(t: Tensor) -> Tensor:
    return torch.ones_like(t)


@remembers
def vp(beta_min: float = 0.1, beta_max: float = 20.0, noise: NoiseLaw = PLAIN) -> Path:
    """DDPM's linear beta in continuous time (arXiv 2011.13456, eq. 33)."""
    _rates("vp", beta_min, beta_max)
    return variance_preserving(lambda t: -(t**2) * (beta_max - beta_min) / 4 - t * beta_min / 2, noise)


@remembers
def scaled_linear(beta_min: float = 0.85, beta_max: float = 12.0, noise: NoiseLaw = PLAIN) -> Path:
    """sqrt(beta) linear in t, as in latent diffusion (arXiv 2112.10752); the defaults are Stable Diffusion's, times 1000."""
    _rates("scaled_linear", beta_min, beta_max)
    low, rise = math.sqrt(beta_min), math.sqrt(beta_max) - math.sqrt(beta_min)
    return variance_preserving(lambda t: -(low**2 * t + low * rise * t**2 + rise**2 * t**3 / 3) / 2, noise)


@remembers
def cosine(s: float = 0.008, noise: NoiseLaw = PLAIN) -> Path:
    """alpha = cos of the angle (t + s)/(1 + s) pi/2, over its value at 0 (arXiv 2102.09672, eq. 17); alpha(1) = 0."""
    inside("cosine: s", s, 0, 1)

    def alpha(t: Tensor) -> Tensor:
        # sin of the complementary angle: exactly 0 at t = 1
        return torch.sin((1 - t) / (1 + s) * math.pi / 2) / math.cos(s / (1 + s) * math.pi / 2)

    return Path(alpha, lambda t: ((1 - alpha(t)) * (1 + alpha(t))).clamp(min=0).sqrt(), noise)


@remembers
def sigmoid(start: float = -3.0, end: float = 3.0, tau: float = 1.0, noise: NoiseLaw = PLAIN) -> Path:
    """alpha^2 falls along a piece of the logistic curve from 1 to 0 (arXiv 2212.11972)."""
    inside("sigmoid: start", start, -20, 20)
    inside("sigmoid: end", end, -20, 20)
    inside("sigmoid: tau", tau, 0.05, 100)
    _rising("sigmoid", ("start", start), ("end", end))

    def logistic(v: float) -> float:
        return 1 / (1 + math.exp(-v / tau))

    first, last = logistic(start), logistic(end)

    def square(t: Tensor) -> Tensor:
        return ((last - torch.sigmoid((t * (end - start) + start) / tau)) / (last - first)).clamp(0, 1)

    def rest(t: Tensor) -> Tensor:
        return ((torch.sigmoid((t * (end - start) + start) / tau) - first) / (last - first)).clamp(0, 1)

    return Path(lambda t: square(t).sqrt(), lambda t: rest(t).sqrt(), noise)


@remembers
def ve(sigma_min: float = 0.01, sigma_max: float = 50.0, noise: NoiseLaw = PLAIN) -> Path:
    """The variance-exploding SDE's own kernel, sigma^2 = sigma_min^2 ((sigma_max/sigma_min)^2t - 1) (arXiv 2011.13456, eq. 29)."""
    inside("ve: sigma_min", sigma_min, 1e-9, 1e9)
    inside("ve: sigma_max", sigma_max, 1e-9, 1e9)
    _rising("ve", ("sigma_min", sigma_min), ("sigma_max", sigma_max))
    rise = 2 * math.log(sigma_max / sigma_min)
    return Path(_one, lambda t: sigma_min * torch.expm1(rise * t).clamp(min=0).sqrt(), noise)


@remembers
def sub_vp(beta_min: float = 0.1, beta_max: float = 20.0, noise: NoiseLaw = PLAIN) -> Path:
    """alpha of VP, sigma = 1 - alpha^2 (arXiv 2011.13456, eq. 29)."""
    _rates("sub_vp", beta_min, beta_max)
    base = vp(beta_min, beta_max)
    return Path(base.alpha, lambda t: base.sigma(t) ** 2, noise)


@remembers
def edm(sigma_max: float = 80.0, noise: NoiseLaw = PLAIN) -> Path:
    """alpha = 1, sigma = sigma_max t (arXiv 2206.00364)."""
    inside("edm: sigma_max", sigma_max, 1e-9, 1e9)
    return Path(_one, lambda t: sigma_max * t, noise)


@remembers
def flow(shift: float = 1.0, noise: NoiseLaw = PLAIN) -> Path:
    """Rectified flow: alpha = 1 - u, sigma = u (arXiv 2209.03003), u = shift t / (1 + (shift - 1) t) (2403.03206, eq. 23)."""
    inside("flow: shift (1 = none, SD3 uses 3)", shift, 1e-3, 1e3)

    def u(t: Tensor) -> Tensor:
        return shift * t / (1 + (shift - 1) * t)

    return Path(lambda t: (1 - t) / (1 + (shift - 1) * t), u, noise)


@remembers
def zero_snr(path: Path) -> Path:
    """The same path with nothing left of the data at t = 1 (arXiv 2305.08891, algorithm 1), made variance-preserving first."""

    def cosine_of(t: Tensor) -> Tensor:  # alpha / sqrt(alpha^2 + sigma^2)
        alpha, sigma = path.alpha(t), path.sigma(t)
        return alpha / (alpha**2 + sigma**2).sqrt()

    last = cosine_of(torch.ones((), dtype=torch.float64))

    def alpha(t: Tensor) -> Tensor:
        return ((cosine_of(t) - last) / (1 - last)).clamp(min=0)

    def sigma(t: Tensor) -> Tensor:
        loss = path.sigma(t) ** 2 / (path.alpha(t) ** 2 + path.sigma(t) ** 2)  # 1 - cosine_of^2, exact near 0
        gap = loss / (1 + cosine_of(t)) / (1 - last)  # 1 - alpha
        return (gap * (2 - gap)).clamp(0, 1).sqrt()

    return Path(alpha, sigma, path.noise, path.steps)


def table(log_alpha: Tensor, noise: NoiseLaw = PLAIN) -> Path:
    """A discrete table: log alpha (T,) after steps 1..T sits at t = 1/T .. 1, with log alpha = 0 at t = 0, linear between."""
    knots = torch.cat([log_alpha.new_zeros(1), log_alpha]).double()
    steps = len(log_alpha)

    def curve(t: Tensor) -> Tensor:
        i = (t * steps).floor().clamp(0, steps - 1).long()
        low, high = knots[i], knots[i + 1]
        return low + (t * steps - i) * (high - low)

    return replace(variance_preserving(curve, noise), steps=steps)


def _line(name: str, steps: int, first: float, last: float) -> None:
    """UserError unless there is such a line of betas."""
    _whole(name, steps)
    inside(f"{name}: first", first, 1e-9, 0.999)
    inside(f"{name}: last", last, 1e-9, 0.999)


def _whole(name: str, steps: int) -> None:
    inside(f"{name}: steps", steps, 1, 1_000_000)
    if steps != int(steps):
        raise UserError(f"{name}: steps is {steps}; it must be a whole number")


def _of_betas(beta: Tensor, noise: NoiseLaw) -> Path:
    return table(torch.log1p(-beta).cumsum(0) / 2, noise)


@remembers
def linear_table(steps: int = 1000, first: float = 1e-4, last: float = 0.02, noise: NoiseLaw = PLAIN) -> Path:
    """DDPM, ADM and DiT: beta on a straight line (arXiv 2006.11239)."""
    _line("linear_table", steps, first, last)
    return _of_betas(torch.linspace(first, last, steps, dtype=torch.float64), noise)


@remembers
def scaled_linear_table(steps: int = 1000, first: float = 0.00085, last: float = 0.012, noise: NoiseLaw = PLAIN) -> Path:
    """Latent and Stable Diffusion: sqrt(beta) on a straight line (arXiv 2112.10752)."""
    _line("scaled_linear_table", steps, first, last)
    return _of_betas(torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64) ** 2, noise)


@remembers
def cosine_table(steps: int = 1000, s: float = 0.008, noise: NoiseLaw = PLAIN) -> Path:
    """Improved DDPM: beta from the cosine curve, at most 0.999 (arXiv 2102.09672)."""
    _whole("cosine_table", steps)
    inside("cosine_table: s", s, 0, 1)
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    alpha_bar = torch.cos((t + s) / (1 + s) * math.pi / 2) ** 2
    return _of_betas((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999), noise)


SCHEDULES = (
    vp,
    scaled_linear,
    cosine,
    sigmoid,
    ve,
    sub_vp,
    edm,
    flow,
    zero_snr,
    linear_table,
    scaled_linear_table,
    cosine_table,
)
