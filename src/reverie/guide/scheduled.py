"""Prompts that change on the way: which condition is heard is decided by where t lies in the grid.

The step from grid[k] to grid[k + 1] is the k-th, and whatever a solver evaluates at grid[k + 1] < t <= grid[k] hears the condition
of that step: its stages, too. The history that multistep solvers keep stays theirs. Where a solver first goes back to more noise
(churn), it may hear the step before.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from reverie.denoiser import Cond, Model
from reverie.guide.composed import Composed
from reverie.guide.guidance import step_of
from reverie.process.path import Path, time


@dataclass(frozen=True)
class Scheduled:
    """A model that is told the shares of the step; without `parts` in the condition it is the model itself.

    grid: the times (K + 1,) of the K steps that the condition's shares are of.
    """

    model: Model
    grid: Tensor

    @property
    def path(self) -> Path:
        return self.model.path

    def __call__(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        return self.model(x, t, self.heard(t, cond))

    def with_variance(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> tuple[Tensor, Tensor]:
        model: Any = self.model
        mean, share = model.with_variance(x, t, self.heard(t, cond))
        return mean, share

    def heard(self, t: Tensor | float, cond: Cond | None) -> Cond | None:
        """The condition with the shares (B, 1, V) of the step of each sample."""
        if cond is None or cond.shares is None or cond.shares.shape[1] == 1:
            return cond
        rows, steps = cond.shares.shape[:2]
        if steps != len(self.grid) - 1:
            raise ValueError(f"shares: a condition of {steps} steps on a grid of {len(self.grid) - 1}")
        k = step_of(self.grid, time(t).expand(rows))
        return replace(cond, shares=cond.shares[torch.arange(rows), k][:, None])


def heeding(model: Model, grid: Tensor) -> Scheduled:
    """The model as one that hears `parts`, `shares` and `places` of its condition, on the way along this grid."""
    return Scheduled(Composed(model), grid)
