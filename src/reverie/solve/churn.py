"""EDM's stochastic churn, around any solver."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reverie.denoiser import Cond, Model
from reverie.process.path import like
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
