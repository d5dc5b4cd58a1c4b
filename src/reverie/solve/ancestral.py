"""Predict, then bridge: DDPM, DDIM, and every process that can bridge; and ancestral forms of deterministic solvers.

On a Gaussian path with u = sigma / alpha, the step from u_t to u_s with noise of deviation v (in u) is (DDIM's eq. 12)

    x_s / alpha_s = x_0 + sqrt(u_s^2 - v^2) n + v z                                                                (1)
    v = eta u_s sqrt(1 - u_s^2 / u_t^2)                              eta = 1: the posterior; k-diffusion's "ancestral"   (2)

so that any deterministic solver becomes ancestral: it steps to sqrt(u_s^2 - v^2), and noise brings it back up to u_s.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from reverie.denoiser import Cond, Model
from reverie.errors import UserError
from reverie.process.path import Path, like
from reverie.process.spacing import inside
from reverie.rng import Rng
from reverie.solve.linear import Knot, Linear, Plan, Row, add, at_u, awake, knot, unit


@dataclass(frozen=True)
class Ancestral:
    """x_s = bridge(x_t, model(x_t), t, s, eta), on any process: eta 1 is DDPM (arXiv 2006.11239), eta 0 DDIM (2010.02502)."""

    eta: float = 1.0
    order: int = 1

    def __post_init__(self) -> None:
        inside("Ancestral: eta", self.eta, 0, 1)

    def init(self) -> None:
        return None

    def step(
        self, model: Model, x: Tensor, t: Tensor, s: Tensor, state: None, *, cond: Cond | None, rng: Rng | None
    ) -> tuple[Tensor, None]:
        now = awake(t)
        return settled(x, model.path.bridge(x, model(x, now, cond), now, s, eta=self.eta, rng=rng), t), None


@dataclass(frozen=True)
class DDIM(Linear):
    """The same on a Gaussian path, as a row. share: with eta = 1, of the log variance between beta~ (0) and beta (1)."""

    eta: float = 0.0
    share: float = 0.0
    order: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1 or not 0 <= self.share <= 1 or (self.share and self.eta != 1):
            raise UserError(f"DDIM: eta is {self.eta} and share {self.share}: both lie in [0, 1], and share goes with eta = 1")

    def plan(self, path: Path, t: float, s: float, past: tuple[float, ...]) -> Plan:
        a, b = knot(path, t), knot(path, s)
        v = self.eta * posterior(a, b)
        noisy = v > 0
        out = bridged(a, b, v, 1 + noisy)
        if self.share and noisy:
            least, most = (float(c) for c in path.posterior(t, s))
            v = math.sqrt(least ** (1 - self.share) * most**self.share)
        return Plan(add((1, out), (v, unit(1))) if noisy else out, noises=int(noisy), aim=None if noisy else s)


@dataclass(frozen=True)
class Learned:
    """DDPM with the variance that the net learnt (arXiv 2102.09672, eq. 15)."""

    order: int = 1

    def init(self) -> None:
        return None

    def step(
        self, model: Any, x: Tensor, t: Tensor, s: Tensor, state: None, *, cond: Cond | None, rng: Rng | None
    ) -> tuple[Tensor, None]:
        if rng is None:
            raise ValueError("this solver draws noise: give rng")
        path, now = model.path, awake(t)
        x0, share = model.with_variance(x, now, cond)
        (alpha_t, sigma_t), (alpha_s, sigma_s), (least, most) = path(now), path(s), path.posterior(now, s)
        keep = like(sigma_s**2 * alpha_t / alpha_s / sigma_t**2, x)
        mean = keep * x + like(alpha_s - sigma_s**2 * alpha_t**2 / alpha_s / sigma_t**2, x) * x0
        deviation = (like(least.log() / 2, x) * (1 - share) + like(most.log() / 2, x) * share).exp()
        noise = path.noise(x.shape, rng.fold("bridge")).to(x)
        return settled(x, mean + like((s > 0).to(mean.dtype), x) * deviation.nan_to_num() * noise, t), None


@dataclass(frozen=True)
class Renoise(Linear):
    """Eq. (1) around a solver that keeps nothing between steps: it steps below s, and noise brings it back to s.

    eta: eq. (2). gamma: the time it steps down to is (1 - gamma) s instead (TCD's, arXiv 2402.19159); with gamma = 1 it jumps to
    the data each time, as consistency models sample (2303.01469, algorithm 1) and LCM does (2310.04378).
    """

    solver: Any
    eta: float = 1.0
    gamma: float | None = None

    def __post_init__(self) -> None:
        if self.solver.memory or not 0 <= self.eta <= 1 or not 0 <= (self.gamma or 0) <= 1:
            raise UserError("Renoise: takes a solver of one step, with eta and gamma in [0, 1]")

    @property
    def order(self) -> int:
        return 1 if self.eta or self.gamma else int(self.solver.order)

    def plan(self, path: Path, t: float, s: float, past: tuple[float, ...]) -> Plan:
        a, b = knot(path, t), knot(path, s)
        below = self._below(path, a, b)
        if below is b:
            whole: Plan = self.solver.plan(path, t, s, past)
            return whole
        plan: Plan = self.solver.plan(path, t, below.t, past)
        up = b.alpha / below.alpha
        v = math.sqrt(max(b.sigma**2 - (up * below.sigma) ** 2, 0.0))
        stages = tuple((at, _shifted(row)) for at, row in plan.stages)
        return replace(plan, out=add((up, _shifted(plan.out)), (v, unit(1))), stages=stages, noises=1)

    def _below(self, path: Path, a: Knot, b: Knot) -> Knot:
        if b.t == 0:
            return b
        if self.gamma is not None:
            return knot(path, (1 - self.gamma) * b.t)
        v = self.eta * posterior(a, b) / b.alpha
        return at_u(path, math.sqrt(max(b.u**2 - v**2, 0.0))) if v else b


def settled(x: Tensor, moved: Tensor, t: Tensor) -> Tensor:
    """`moved`, but x of the samples that had arrived at t = 0 before."""
    return torch.where(like(t == 0, x).bool(), x, moved) if t.ndim else moved


def posterior(a: Knot, b: Knot) -> float:
    """Deviation of x_s given x_t and x_0."""
    return b.sigma * math.sqrt(-math.expm1(2 * (a.lam - b.lam)))


def bridged(a: Knot, b: Knot, v: float, m: int) -> Row:
    """Eq. (1) without its noise; v in units of x_s, the estimate at basis vector m."""
    keep = math.sqrt(max(b.sigma**2 - v**2, 0.0)) / a.sigma
    return add((keep, unit(0)), (b.alpha - keep * a.alpha, unit(m)))


def _shifted(row: Row) -> Row:
    """The row where a noise stands behind x."""
    return (*row[:1], 0.0, *row[1:])
