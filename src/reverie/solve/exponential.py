"""Exponential multistep solvers in lam = log(alpha / sigma): DDIM, DDPM, DPM-Solver++ 1-3M and their SDE forms are one step.

With c = 1 + eta and h = lam_s - lam_t, the reverse process with frozen coefficients has the exact solution

    x_s = sigma_s/sigma_t e^(-eta h) x_t + alpha_s int_0^h c e^(-c (h - r)) x_0(lam_t + r) dr
          + sigma_s sqrt(1 - e^(-2 eta h)) z                                                                        (1)

(arXiv 2211.01095, eq. 8; with eta, 2305.14267). x_0(lam) is replaced by the polynomial through the last estimates; with r = h u
and z = c h the integral of u^k is

    M_k(z) = int_0^1 z e^(-z (1 - u)) u^k du = sum_j (-1)^j z^(j+1) k! / (j + k + 1)!,    M_k = 1 - k/z M_(k-1)    (2)

Everything has a limit: at s = 0 (h = inf) x_s = alpha_s x_0, and where alpha_t = 0 the history has no weight.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.denoiser import Cond, Model
from reverie.errors import UserError
from reverie.process.path import like
from reverie.rng import Rng

History = tuple[tuple[Tensor, Tensor], ...]  # (lam, x0) of the steps taken, newest first


def moment(k: int, z: Tensor) -> Tensor:
    """M_k(z) of eq. (2), for z in [0, inf]; by its series where the recursion would cancel."""
    series = sum(((-1) ** j * math.factorial(k) / math.factorial(j + k + 1) * z.clamp(max=1) ** (j + 1) for j in range(18)), 0 * z)
    closed = -torch.expm1(-z)
    for i in range(1, k + 1):
        closed = 1 - i / z * closed
    return torch.where(z < 1, series, closed)


def _over(value: Tensor, finite: Tensor) -> Tensor:
    """1 / value, or 0 where the history has no weight."""
    return torch.where(finite & value.isfinite() & (value != 0), 1 / torch.where(value == 0, 1.0, value), 0.0)


@dataclass(frozen=True)
class Exponential:
    """Order 1-3, eta >= 0. start: 'heun' takes the first order - 1 steps with two evaluations (eta = 0 only), because an order-1
    start caps order 3 at 2. midpoint: DPM-Solver++(2M)'s own order-2 weight M_0 / 2 in place of M_1.

    eta here is DPM-Solver++ SDE's: it equals DDIM's eta at 0 and at 1 only.
    """

    order: int = 2
    eta: float = 0.0
    start: str = ""
    midpoint: bool = False

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise UserError(f"Exponential: order is {self.order}; orders 1, 2 and 3 exist")
        if self.start not in ("", "heun") or (self.start and self.eta):
            raise UserError("Exponential: start is '' or 'heun', and 'heun' goes with eta = 0")

    def init(self) -> History:
        return ()

    def step(
        self, model: Model, x: Tensor, t: Tensor, s: Tensor, state: History, *, cond: Cond | None, rng: Rng | None
    ) -> tuple[Tensor, History]:
        history = ((model.path.lam(t), model(x, t, cond)), *state)[: self.order]
        x_s = self.advance(model, x, t, s, history)
        if self.start == "heun" and len(history) < self.order and bool((s > 0).all()):
            x_s = self.correct(model, x, t, s, history[0], model(x_s, s, cond))
        if self.eta:
            x_s = x_s + self.noise(model, x, t, s, rng)
        return x_s, history

    def _frame(self, model: Model, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """h, and the factors of x_t and of the integral in eq. (1)."""
        (_, sigma_t), (alpha_s, sigma_s) = model.path(t), model.path(s)
        h = model.path.lam(s) - model.path.lam(t)
        decay = (-self.eta * h).exp() if self.eta else torch.ones_like(h)
        return h, sigma_s / sigma_t * decay, alpha_s

    def advance(self, model: Model, x: Tensor, t: Tensor, s: Tensor, history: History) -> Tensor:
        """Eq. (1) without its noise, through up to three estimates (divided differences)."""
        h, keep, alpha_s = self._frame(model, t, s)
        z = (1 + self.eta) * h
        lam, x0 = zip(*history, strict=True)
        out = like(moment(0, z), x) * x0[0]
        if len(history) > 1:
            m1 = moment(1, z) if not self.midpoint else moment(0, z) / 2
            u1 = (lam[1] - lam[0]) / h
            slope = like(_over(-u1, h.isfinite()), x) * (x0[0] - x0[1])
            out = out + like(m1, x) * slope
        if len(history) > 2:
            u2 = (lam[2] - lam[0]) / h
            before = like(_over(u1 - u2, h.isfinite()), x) * (x0[1] - x0[2])
            bend = torch.where(u1.isfinite(), moment(2, z) - u1 * moment(1, z), 0.0) * _over(-u2, h.isfinite())
            out = out + like(bend, x) * (slope - before)
        return like(keep, x) * x + like(alpha_s, x) * out

    def correct(self, model: Model, x: Tensor, t: Tensor, s: Tensor, now: tuple[Tensor, Tensor], later: Tensor) -> Tensor:
        """Eq. (1) through the estimates at t and at the predicted x_s; where h is infinite, their mean."""
        h, keep, alpha_s = self._frame(model, t, s)
        m1 = torch.where(h.isfinite(), moment(1, h), 0.5)
        out = like(moment(0, h) - m1, x) * now[1] + like(m1, x) * later
        return like(keep, x) * x + like(alpha_s, x) * out

    def noise(self, model: Model, x: Tensor, t: Tensor, s: Tensor, rng: Rng | None) -> Tensor:
        if rng is None:
            raise ValueError("eta > 0 draws noise: give rng")
        if not model.path.noise.gaussian:
            raise UserError("this path's noise is not Gaussian: use eta = 0")
        h = self._frame(model, t, s)[0]
        size = model.path(s)[1] * (-torch.expm1(-2 * self.eta * h)).sqrt()
        return like(size, x) * model.path.noise(x.shape, rng.fold("bridge")).to(x)
