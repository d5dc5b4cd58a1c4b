"""Solvers that go back up: EDM's stochastic churn before each step, and Restart after some."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reverie.denoiser import Cond, Model
from reverie.errors import UserError
from reverie.process.path import Path, like
from reverie.rng import Rng


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
        return int(self.solver.order)

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


@dataclass(frozen=True)
class Restart:
    """Restart around any solver (arXiv 2306.14878, algorithm 2): when a step has brought u = sigma / alpha to `low` or below,
    noise takes it back up to `high` and `steps` steps down again, `times` times.

    A grid in u of rho 7 is used within; where the path does not reach `high`, from its top.
    """

    solver: Any
    low: float = 0.1
    high: float = 2.0
    times: int = 1
    steps: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high or self.times < 0 or self.steps < 1:
            raise UserError(f"Restart: 0 < low {self.low} < high {self.high}, times {self.times} >= 0, steps {self.steps} >= 1")

    @property
    def order(self) -> int:
        return int(self.solver.order)

    def init(self) -> Any:
        return self.solver.init()

    def step(
        self, model: Model, x: Tensor, t: Tensor, s: Tensor, state: Any, *, cond: Cond | None, rng: Rng | None
    ) -> tuple[Tensor, Any]:
        if rng is None:
            raise ValueError("restart draws noise: give rng")
        if t.ndim:
            raise UserError("Restart: the samples of a batch go back up together; give one time for all")
        x, state = self.solver.step(model, x, t, s, state, cond=cond, rng=rng)
        path, grid = model.path, self._grid(model.path, float(s))
        if grid is None or not float(s) <= float(path.t_of_lam(-math.log(self.low))) < float(t):
            return x, state
        (alpha_top, sigma_top), (alpha, sigma) = path(grid[0]), path(s)
        up = float(alpha_top / alpha)
        fresh = math.sqrt(float(sigma_top) ** 2 - (up * float(sigma)) ** 2)
        for k in range(self.times):
            own = rng.fold("restart", k)
            x = up * x + fresh * path.noise(x.shape, own.fold("up")).to(x)
            inner = self.solver.init()
            for j, (a, b) in enumerate(itertools.pairwise(grid)):
                x, inner = self.solver.step(model, x, a, b, inner, cond=cond, rng=own.step(j, a, b))
        return x, self.solver.init()

    def _grid(self, path: Path, s: float) -> Tensor | None:
        """Knots from `high` down to s, or None where s is not below it or is the data itself."""
        top, bottom = float((-path.lam(1.0)).exp()), float((-path.lam(s)).exp()) if s else 0.0
        high = min(self.high, top)
        if not 0 < bottom < high:
            return None
        ramp = torch.linspace(high ** (1 / 7), bottom ** (1 / 7), self.steps + 1, dtype=torch.float64)
        grid = path.t_of_lam(-(ramp**7).log())
        grid[-1] = s
        return grid
