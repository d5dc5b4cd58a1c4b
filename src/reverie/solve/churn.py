"""Solvers that go back up: EDM's stochastic churn before each step, Restart after some, and RePaint's jumps after every few."""

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

    def __post_init__(self) -> None:
        if not 0 <= self.amount < math.inf or not self.steps >= 1:
            raise UserError(f"Churn: amount is {self.amount} and steps {self.steps}; amount is 0 or more, steps at least 1")
        if not 0 <= self.low <= self.high or not 0 <= self.swell < math.inf:
            raise UserError(f"Churn: low is {self.low}, high {self.high}, swell {self.swell}; 0 <= low <= high, and swell >= 0")

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
    """Restart around a solver that keeps nothing between steps (arXiv 2306.14878, algorithm 2).

    When a step has brought u = sigma / alpha to `low` or below, noise takes it back up to `high` and `steps` steps down again,
    `times` times.

    A grid in u of rho 7 is used within; where the path does not reach `high`, from its top.
    """

    solver: Any
    low: float = 0.1
    high: float = 2.0
    times: int = 1
    steps: int = 4

    def __post_init__(self) -> None:
        if getattr(self.solver, "memory", 0):
            raise UserError("Restart: takes a solver that keeps nothing between steps, for it goes back up between them")
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
        x, state = self.solver.step(model, x, t, s, state, cond=cond, rng=rng)
        pairs = list(zip(*(end.expand(len(x)).tolist() for end in (t, s)), strict=True))
        for begin, end in dict.fromkeys(pairs):  # samples that stand at the same times go back up together
            grid = self._grid(model.path, end)
            if grid is None or not end <= float(model.path.t_of_lam(-math.log(self.low))) < begin:
                continue
            rows = torch.tensor([k for k, pair in enumerate(pairs) if pair == (begin, end)])
            own = None if cond is None else cond[rows.to(x.device)]
            new = again(self.solver, model, x[rows.to(x.device)], grid, self.times, own, rng.take(rows.tolist()))
            x = x.index_copy(0, rows.to(x.device), new)
        return x, state

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


@dataclass(frozen=True)
class Resampled:
    """A step from t to s by a solver's own steps along `fine`, gone `times` times more from fresh noise (arXiv 2201.09865).

    Where some places are known, the others come to fit them. fine: falling times; t and s are among them.
    """

    solver: Any
    fine: tuple[float, ...]
    times: int

    def __post_init__(self) -> None:
        if self.times < 0 or any(s >= t for t, s in itertools.pairwise(self.fine)):
            raise UserError(f"Resampled: times is {self.times}, which is 0 or more; fine must fall")

    @property
    def order(self) -> int:
        return int(self.solver.order)

    def init(self) -> Any:
        return self.solver.init()

    def step(
        self, model: Model, x: Tensor, t: Tensor, s: Tensor, state: Any, *, cond: Cond | None, rng: Rng | None
    ) -> tuple[Tensor, Any]:
        if rng is None:
            raise ValueError("resampling draws noise: give rng")
        if t.ndim or s.ndim:
            raise UserError("resampling goes along one grid: give all samples the same times")
        knots = [k for k in self.fine if s <= k <= t]
        if len(knots) < 2 or (knots[0], knots[-1]) != (float(t), float(s)):
            raise ValueError("Resampled: a step begins and ends at one of its own times")
        grid = torch.tensor(knots, dtype=torch.float64)
        x, state = down(self.solver, model, x, grid, state, cond, rng)
        return (again(self.solver, model, x, grid, self.times, cond, rng), self.init()) if self.times else (x, state)


def down(solver: Any, model: Model, x: Tensor, grid: Tensor, state: Any, cond: Cond | None, rng: Rng) -> tuple[Tensor, Any]:
    """A solver's steps along a grid."""
    for j, (a, b) in enumerate(itertools.pairwise(grid)):
        x, state = solver.step(model, x, a, b, state, cond=cond, rng=rng.step(j, a, b))
    return x, state


def again(solver: Any, model: Model, x: Tensor, grid: Tensor, times: int, cond: Cond | None, rng: Rng) -> Tensor:
    """From the last of a grid up to its first, by fresh noise, and down again, `times` times."""
    (alpha_top, sigma_top), (alpha, sigma) = model.path(grid[0]), model.path(grid[-1])
    up = float(alpha_top / alpha)
    fresh = math.sqrt(float(sigma_top) ** 2 - (up * float(sigma)) ** 2)
    for k in range(times):
        own = rng.fold("restart", k)
        x = up * x + fresh * model.path.noise(x.shape, own.fold("up")).to(x)
        x = down(solver, model, x, grid, solver.init(), cond, own)[0]
    return x
