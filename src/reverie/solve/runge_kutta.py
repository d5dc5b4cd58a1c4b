"""Runge-Kutta solvers of the probability-flow ODE, in the variable in which Dirac data is a straight line.

With y = x / (alpha + kappa sigma) and w = sigma / (alpha + kappa sigma):

    y = (1 - kappa w) x_0 + w n,        dy/dw = n - kappa x_0                                                      (1)

kappa = 0 is EDM's sigma space (arXiv 2206.00364, eq. 4) and is used wherever some data is left at t = 1; kappa = 1 is the rectified
flow, finite also where alpha = 0. The step to s = 0 is Euler's: x_s = alpha_s x_0.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reverie.denoiser import Cond, Model
from reverie.process.path import Path, like
from reverie.rng import Rng


@dataclass(frozen=True)
class RungeKutta:
    """A Butcher tableau: rows of stages, their nodes, and the weights."""

    order: int
    stages: tuple[tuple[float, ...], ...]
    nodes: tuple[float, ...]
    weights: tuple[float, ...]

    def init(self) -> None:
        return None

    def step(
        self, model: Model, x: Tensor, t: Tensor, s: Tensor, state: None, *, cond: Cond | None, rng: Rng | None
    ) -> tuple[Tensor, None]:
        path = model.path
        kappa = 0.0 if float(path(1.0)[0]) > 1e-6 else 1.0
        if bool((s == 0).all()):
            return like(path(s)[0], x) * model(x, t, cond), None
        w_t, w_s = _position(path, t, kappa), _position(path, s, kappa)
        y = x / like(_size(path, t, kappa), x)
        slopes: list[Tensor] = []
        for row, node in zip(self.stages, self.nodes, strict=True):
            at = t if node == 0 else s if node == 1 else _time(path, w_t + node * (w_s - w_t), kappa)
            y_i = y + like(w_s - w_t, x) * _weighted(row, slopes) if slopes else y
            slopes.append(_slope(model, y_i * like(_size(path, at, kappa), x), at, cond, kappa))
        return like(_size(path, s, kappa), x) * (y + like(w_s - w_t, x) * _weighted(self.weights, slopes)), None


def _weighted(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    return sum((w * k for w, k in zip(weights, slopes, strict=True) if w), torch.zeros_like(slopes[0]))


def _size(path: Path, t: Tensor, kappa: float) -> Tensor:
    alpha, sigma = path(t)
    return alpha + kappa * sigma


def _position(path: Path, t: Tensor, kappa: float) -> Tensor:
    return path(t)[1] / _size(path, t, kappa)


def _time(path: Path, w: Tensor, kappa: float) -> Tensor:
    return path.t_of_lam(-(w / (1 - kappa * w)).log())


def _slope(model: Model, x: Tensor, t: Tensor, cond: Cond | None, kappa: float) -> Tensor:
    alpha, sigma = model.path(t)
    x0 = model(x, t, cond)
    return (x - like(alpha, x) * x0) / like(sigma, x) - kappa * x0


def euler() -> RungeKutta:
    return RungeKutta(1, ((),), (0.0,), (1.0,))


def heun() -> RungeKutta:
    """The trapezoid EDM uses."""
    return RungeKutta(2, ((), (1.0,)), (0.0, 1.0), (0.5, 0.5))


def midpoint() -> RungeKutta:
    """k-diffusion's DPM-2 takes its middle in log sigma; this is the classical one, in w."""
    return RungeKutta(2, ((), (0.5,)), (0.0, 0.5), (0.0, 1.0))


def rk4() -> RungeKutta:
    return RungeKutta(4, ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (0.0, 0.5, 0.5, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6))


@dataclass(frozen=True)
class Churn:
    """EDM's stochastic churn around any solver (arXiv 2206.00364, algorithm 2): each step first raises the noise level.

    amount / steps is the relative raise, at most sqrt(2) - 1, where `low` <= sigma/alpha <= `high`; `swell` scales the new noise.
    """

    solver: Any
    amount: float
    steps: int
    low: float = 0.0
    high: float = math.inf
    swell: float = 1.0

    @property
    def order(self) -> int:
        return self.solver.order

    def init(self) -> Any:
        return self.solver.init()

    def step(
        self, model: Model, x: Tensor, t: Tensor, s: Tensor, state: Any, *, cond: Cond | None, rng: Rng | None
    ) -> tuple[Tensor, Any]:
        if rng is None:
            raise ValueError("churn draws noise: give rng")
        path = model.path
        u, top = (-path.lam(t)).exp(), (-path.lam(1.0)).exp()
        gamma = min(self.amount / self.steps, math.sqrt(2) - 1)
        raised = u * (1 + gamma)
        inside = (u >= self.low) & (u <= self.high) & (raised <= top) & u.isfinite()
        higher = torch.where(inside, path.t_of_lam(-raised.log()), t)
        alpha = path(higher)[0]
        grow = torch.where(inside, alpha / path(t)[0], 1.0)
        fresh = torch.where(inside, alpha * self.swell * u * math.sqrt((1 + gamma) ** 2 - 1), 0.0)
        x = like(grow, x) * x + like(fresh, x) * path.noise(x.shape, rng.fold("churn")).to(x)
        return self.solver.step(model, x, higher, s, state, cond=cond, rng=rng)
