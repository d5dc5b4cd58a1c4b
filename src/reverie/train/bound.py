"""The variational bound of a Gaussian process in bits per dimension, and nets that learn the variance of their steps.

The chain draws x_s from N(mean, exp(logvar)), with the mean of the posterior (arXiv 2006.11239, eq. 7). On any path:

    r = alpha_t / alpha_s,   q = sigma_t^2 - r^2 sigma_s^2                      what one step adds to r x_s          (1)
    mean = r sigma_s^2 / sigma_t^2 x_t + alpha_s q / sigma_t^2 x_0                                                  (2)
    least = sigma_s^2 q / sigma_t^2                                             variance if x_0 is known            (3)
    most = V_s q / V_t,      V = alpha^2 d^2 + sigma^2                          variance if data is N(., d^2)       (4)
    logvar = share log(most) + (1 - share) log(least),   share = (channel + 1) / 2                                  (5)

On a variance-preserving path with d = 1, eq. (3) and (4) are beta~ and beta of arXiv 2102.09672, and (5) is its eq. 15. Into s = 0
the posterior has no width: there a learned variance lies between half of eq. (4) and eq. (4), a fixed one is eq. (4) itself.
The bound (its eq. 4-7) is

    -log p(x_0) <= KL(q(x_1 | x_0), prior) + sum KL(q(x_s | x_t, x_0), p(x_s | x_t)) - log p(x_0 | x_t of the last step)  (6)
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.denoiser import Cond, Denoiser
from reverie.errors import UserError
from reverie.process.grids import check
from reverie.process.path import like, time
from reverie.rng import Rng
from reverie.train.objective import Objective


@dataclass(frozen=True)
class Bound:
    """Bits per dimension: prior (B,), and one row per step of the grid (steps, B), from noise to data."""

    prior: Tensor
    steps: Tensor

    @property
    def total(self) -> Tensor:
        """The whole bound (B,)."""
        return self.prior + self.steps.sum(0)


def _term(
    model: Denoiser, x: Tensor, x0: Tensor, t: Tensor, s: Tensor, halves: tuple[Tensor, Tensor | None], share: float, levels: int
) -> Tensor:
    """One step of eq. (6) per sample (B,), in bits per dimension."""
    path = model.path
    if not path.noise.gaussian:
        raise UserError("this path's noise is not Gaussian, so its steps have no variational bound")
    (alpha_t, sigma_t), (alpha_s, sigma_s) = path(t), path(s)
    ratio = alpha_t / alpha_s
    added = sigma_t**2 - (ratio * sigma_s) ** 2
    least, most = path.posterior(t, s, 1.0 if model.sigma_data is None else model.sigma_data)
    output, channels = halves
    least = torch.where(s > 0, least, most if channels is None else most / 2)
    keep, take = model.solution(t)
    estimate = like(keep, x) * x + like(take, x) * output
    part = torch.full_like(x, share) if channels is None else (channels + 1) / 2
    logvar = like(least.log(), x) + part * like((most / least).log(), x)
    gap = like(alpha_s * added / sigma_t**2, x) * (x0 - estimate)
    exact = like(least.log(), x)
    divergence = (logvar - exact + (exact - logvar).exp() + gap**2 * (-logvar).exp() - 1) / 2
    nats = torch.where(like(s, x) > 0, divergence, -_log_likelihood(x0, estimate, logvar, levels))
    return nats.flatten(1).mean(1) / math.log(2)


def _log_likelihood(x0: Tensor, mean: Tensor, logvar: Tensor, levels: int) -> Tensor:
    """log of the density at x0 or, for data on `levels` values in [-1, 1], of the mass of its bin; the end bins are open."""
    if not levels:
        return -(logvar + math.log(2 * math.pi) + (x0 - mean) ** 2 * (-logvar).exp()) / 2
    half, scale = 1 / (levels - 1), (-logvar / 2).exp()
    above, below = (x0 + half - mean) * scale, (x0 - half - mean) * scale
    mirror = (above + below) > 0  # tails are subtracted where they are small
    above, below = torch.where(mirror, -below, above), torch.where(mirror, -above, below)
    low_end, high_end = x0 < -1 + half, x0 > 1 - half
    above = torch.where(torch.where(mirror, low_end, high_end), torch.inf, above)
    below = torch.where(torch.where(mirror, high_end, low_end), -torch.inf, below)
    return (torch.special.ndtr(above) - torch.special.ndtr(below)).clamp(min=1e-12).log()


def variational(
    model: Denoiser,
    x0: Tensor,
    t: Tensor | float,
    s: Tensor | float,
    n: Tensor,
    cond: Cond | None = None,
    *,
    share: float = 0.0,
    levels: int = 256,
) -> Tensor:
    """The bound's term of the step from t to s < t (B,), in bits per dimension, at x_t = alpha x0 + sigma n.

    share: place of the variance between eq. (3) and (4) of a model that learns none. levels: values of the data in [-1, 1];
    0 = continuous data, whose last term is a density.
    """
    t, s = time(t), time(s)
    x = model.path.mix(x0, n, t)
    return _term(model, x, x0, t, s, model.halves(x, t, cond), share, levels)


def hybrid(
    model: Denoiser,
    x0: Tensor,
    t: Tensor | float,
    s: Tensor | float,
    n: Tensor,
    cond: Cond | None = None,
    *,
    scale: float = 1e-3,
    levels: int = 256,
) -> Tensor:
    """L_hybrid = L_simple + scale L_vlb (B,) (arXiv 2102.09672, eq. 16); L_vlb trains the variance only.

    A grid of such steps has 1 / (t - s) of them, so one term stands for that many.
    """
    t, s = time(t), time(s)
    if not model.learned_variance:
        raise UserError("this denoiser learns no variance: make it with learned_variance=True and a net of twice the channels")
    x = model.path.mix(x0, n, t)
    output, channels = model.halves(x, t, cond)
    a, b = model.rule(model.path, t)
    simple = (output - like(a, x0) * x0 - like(b, x0) * n).square().flatten(1).mean(1)
    bound = _term(model, x, x0, t, s, (output.detach(), channels), 0.0, levels)
    return simple + scale * bound / (t - s).to(bound)


def hybrid_on(steps: int = 1000, *, scale: float = 1e-3, levels: int = 256) -> Objective:
    """L_hybrid on a chain of equal steps, as an objective like `denoising`."""

    def objective(model: Denoiser, x0: Tensor, t: Tensor, n: Tensor, cond: Cond | None = None) -> Tensor:
        return hybrid(model, x0, t, (t - 1 / steps).clamp_min(0), n, cond, scale=scale, levels=levels)

    return objective


@torch.no_grad()
def bits_per_dim(
    model: Denoiser,
    x0: Tensor,
    grid: Tensor,
    rng: Rng,
    cond: Cond | None = None,
    *,
    share: float = 0.0,
    levels: int = 256,
) -> Bound:
    """An unbiased estimate of the whole bound on the chain along `grid`, one draw of noise per step."""
    grid = check(time(grid))
    alpha, sigma = model.path(grid[0])
    prior = like((alpha / sigma) ** 2, x0) * x0**2 / 2
    rows = []
    for k in range(len(grid) - 1):
        n = model.path.noise(x0.shape, rng.fold("bound", k)).to(x0)
        rows.append(variational(model, x0, grid[k], grid[k + 1], n, cond, share=share, levels=levels))
    return Bound(prior.flatten(1).mean(1) / math.log(2), torch.stack(rows))
