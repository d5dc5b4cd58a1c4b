"""What a picture already has: a denoiser that knows the clean value of some places, for all of the way or for its first part.

    x0(x, t) = source where the way that is left at t is longer than `strength`, else the model's               (1)

A solver that bridges with this estimate carries those places from noise to the source on the one path that ends there, so that they
look, at every t, like the source with noise on it. strength 0 keeps a place for good (inpainting by replacement, Lugmayr et al.,
arXiv:2201.09865, eq. 8), 1 leaves it to the model, and what is between frees it on the way (Differential Diffusion, Levin & Fried,
arXiv:2306.00950). The way is counted in steps of the grid, and a place is freed at the step that is nearest to its strength.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reverie.denoiser import Model
from reverie.process.path import Path, like, time


@dataclass(frozen=True)
class Beside:
    """A condition, and tensors (B, ...) that belong to the same samples: rows of it are rows of all."""

    cond: Any
    values: tuple[Tensor, ...]

    def __getitem__(self, rows: Any) -> "Beside":
        return Beside(None if self.cond is None else self.cond[rows], tuple(v[rows] for v in self.values))


def left(grid: Tensor, t: Tensor) -> Tensor:
    """The share of the way that is left at t () or (B,): 1 at the grid's first time, 0 at its last, equal shares between knots.

    grid (n + 1,) falls.
    """
    rising = grid.flip(0).contiguous()
    above = torch.searchsorted(rising, t.contiguous()).clamp(1, len(rising) - 1)
    low, high = rising[above - 1], rising[above]
    return ((above - 1 + (t - low) / (high - low)) / (len(rising) - 1)).clamp(0, 1)


@dataclass(frozen=True)
class Kept:
    """Equation (1) under a `Beside` whose values are source (B, C, ...) and strength (B, 1, ...). grid: times of the whole way."""

    model: Model
    grid: Tensor

    @property
    def path(self) -> Path:
        return self.model.path

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return self._joined(self.model(x, t, cond.cond), t, cond)

    def with_variance(self, x: Tensor, t: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """The variance is the model's, everywhere."""
        model: Any = self.model
        x0, share = model.with_variance(x, t, cond.cond)
        return self._joined(x0, t, cond), share

    def _joined(self, x0: Tensor, t: Tensor, cond: Beside) -> Tensor:
        source, strength = (v.to(x0) for v in cond.values)
        steps = len(self.grid) - 1
        free = like(left(self.grid, time(t)), x0).float() <= (steps * strength.float()).round() / steps + 1e-6
        return torch.where(free, x0, source)
