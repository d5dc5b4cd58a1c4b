"""Gaussian paths: how data becomes noise, and how a step back is taken.

    x_t = alpha(t) x_0 + sigma(t) n,            t in [0, 1], t = 0 data, t = 1 noise                            (1)
    lam(t) = log(alpha(t) / sigma(t)),          half the log signal-to-noise ratio, falling in t                (2)
    x_s = alpha_s x_0 + sqrt(sigma_s^2 - v^2) n^ + v z,     n^ = (x_t - alpha_t x_0) / sigma_t                  (3)
    v = eta sigma_s sqrt(1 - exp(2 lam_t - 2 lam_s))                                                            (4)

Eq. (3) is DDIM's bridge (arXiv 2010.02502, eq. 12 and 16), written for any pair (alpha, sigma): eta = 1 is the exact Gaussian
posterior q(x_s | x_t, x_0), eta = 0 keeps the noise. VP, sub-VP, VE, cosine, flow, ... are values of `Path`, not subclasses.

Times and coefficients are float64 tensors on the CPU, of shape () or (B,); the state keeps its own dtype and device.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reverie.card import Card
from reverie.errors import UserError
from reverie.process.noise import NoiseLaw, gaussian
from reverie.rng import Rng


def time(t: Tensor | float) -> Tensor:
    """A time as a float64 CPU tensor."""
    return torch.as_tensor(t, dtype=torch.float64, device="cpu")


def like(c: Tensor, x: Tensor) -> Tensor:
    """Coefficients of shape () or (B,) in the dtype and on the device of x (B, ...), ready to multiply it."""
    if c.ndim and c.shape[0] != x.shape[0]:
        raise ValueError(f"{c.shape[0]} times for a batch of {x.shape[0]}: give one time, or one per sample")
    return c.to(x.dtype).to(x.device).reshape(c.shape + (1,) * (x.ndim - 1 if c.ndim else 0))


@dataclass(frozen=True, eq=False)  # two paths with equal curves cannot be told to be: each is itself, and quick to look up
class Path:
    """x_t = alpha(t) x_0 + sigma(t) n. alpha and sigma map float64 tensors elementwise; sigma(0) = 0.

    steps: of a discrete table, whose nets know nothing below t = 1 / steps; 0 = continuous.
    """

    alpha: Callable[[Tensor], Tensor]
    sigma: Callable[[Tensor], Tensor]
    noise: NoiseLaw = field(default_factory=gaussian)
    steps: int = 0
    card: Card = field(default_factory=dict, compare=False, repr=False)

    def __call__(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """(alpha(t), sigma(t))."""
        t = time(t)
        return self.alpha(t), self.sigma(t)

    def lam(self, t: Tensor | float) -> Tensor:
        """Eq. (2): +inf at t = 0, and -inf where the signal is gone."""
        alpha, sigma = self(t)
        return alpha.log() - sigma.log()

    def t_of_lam(self, lam: Tensor | float) -> Tensor:
        """The inverse of `lam`, to the last bit: 11 rounds that each cut the interval into 64; beyond lam(1) it is t = 1."""
        lam = time(lam)
        low, cuts = torch.zeros_like(lam), torch.arange(1, 64, dtype=torch.float64)
        for depth in range(1, 12):
            knots = low[..., None] + cuts * 64.0**-depth
            low = low + (self.lam(knots) > lam[..., None]).sum(-1) * 64.0**-depth
        return torch.where(self.lam(1.0) >= lam, 1.0, torch.where(lam == torch.inf, 0.0, low))

    def posterior(self, t: Tensor | float, s: Tensor | float, spread: float = 1.0) -> tuple[Tensor, Tensor]:
        """Variances of x_s given x_t: if x_0 is known, and if the data is N(., spread^2); beta~ and beta on VP paths."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self(t), self(s)
        added = sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2
        most = added * (alpha_s**2 * spread**2 + sigma_s**2) / (alpha_t**2 * spread**2 + sigma_t**2)
        return sigma_s**2 * added / sigma_t**2, most

    def rates(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """(alpha'(t), sigma'(t)) by automatic differentiation."""
        t = time(t)
        alpha, sigma = (torch.func.grad(lambda u, c=curve: c(u).sum())(t) for curve in (self.alpha, self.sigma))
        return alpha, sigma

    def prior(self, shape: Sequence[int], t: Tensor | float = 1.0, *, rng: Rng, spread: float = 0.0) -> Tensor:
        """x_t (B, ...) when nothing is known of the data, or when it is N(0, spread^2)."""
        return self.spread(self.noise(shape, rng.fold("prior")), t, spread)

    def spread(self, n: Tensor, t: Tensor | float, spread: float = 0.0) -> Tensor:
        """The same with the noise given."""
        alpha, sigma = self(t)
        return like((alpha**2 * spread**2 + sigma**2).sqrt(), n) * n

    def guess(self, x: Tensor, t: Tensor | float) -> Tensor:
        """E[x_0 | x_t] if the data is N(0, 1): what can be said without a look, and right where little is left of the data."""
        alpha, sigma = self(t)
        return like(alpha / (alpha**2 + sigma**2), x) * x

    def corrupt(self, x0: Tensor, t: Tensor | float, *, rng: Rng) -> Tensor:
        """x_t given x_0, eq. (1)."""
        return self.mix(x0, self.noise(x0.shape, rng.fold("corrupt")).to(x0), t)

    def mix(self, x0: Tensor, n: Tensor, t: Tensor | float) -> Tensor:
        """Eq. (1) with the noise given."""
        alpha, sigma = self(t)
        return like(alpha, x0) * x0 + like(sigma, x0) * n

    def bridge(
        self, x: Tensor, x0: Tensor, t: Tensor | float, s: Tensor | float, *, eta: float = 0.0, rng: Rng | None = None
    ) -> Tensor:
        """x_s given x_t and a clean estimate, eq. (3); s < t."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self(t), self(s)
        v = 0 * sigma_s
        if eta:
            if not self.noise.gaussian:
                raise UserError("this path's noise is not Gaussian, so its posterior has no closed form: use eta = 0")
            if rng is None:
                raise ValueError("eta > 0 draws noise: give rng")
            v = eta * sigma_s * (-torch.expm1(2 * (self.lam(t) - self.lam(s)))).clamp(min=0).sqrt()
        keep = (sigma_s**2 - v**2).clamp(min=0).sqrt() / sigma_t
        out = like(keep, x) * x + like(alpha_s - keep * alpha_t, x) * x0
        return out + like(v, x) * self.noise(x.shape, rng.fold("bridge")).to(x) if rng is not None and eta else out
