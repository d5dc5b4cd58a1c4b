"""Two denoisers for one path: one where there is much noise, the other for the rest (Balaji et al., arXiv:2211.01324, section 4).

Stable Diffusion XL and its refiner are such a pair (arXiv:2307.01952, section 2.5). Each hears its own condition.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reverie.denoiser import Cond, Model
from reverie.errors import UserError
from reverie.process.path import Path, time


@dataclass(frozen=True)
class Heard:
    """What each of two experts is told; rows of it are rows of both."""

    first: Cond | None
    second: Cond | None

    def __getitem__(self, rows: slice | Tensor) -> "Heard":
        return Heard(*(None if cond is None else cond[rows] for cond in (self.first, self.second)))


@dataclass(frozen=True)
class Experts:
    """first(x, t) where t > at, second(x, t) below; `Heard` is the condition."""

    first: Model
    second: Model
    at: float

    def __post_init__(self) -> None:
        if not 0 <= self.at <= 1:
            raise UserError(f"experts change at t = {self.at}; it lies between 0 and 1, with t = 1 noise")
        times = torch.linspace(0.05, 1, 20, dtype=torch.float64)
        one, two = (model.path.lam(times) for model in (self.first, self.second))
        if not torch.allclose(one, two, atol=1e-3):
            raise UserError("the two models were trained on other processes, so that one cannot go on where the other stops")

    @property
    def path(self) -> Path:
        return self.first.path

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        t = time(t).expand(x.shape[0])
        late = t <= self.at + 1e-9  # a share of 0.8 leaves a little less than 0.2
        if not bool(late.any()) or bool(late.all()):
            model, own = (self.second, "second") if bool(late.all()) else (self.first, "first")
            return model(x, t, None if cond is None else getattr(cond, own))
        out = torch.empty_like(x)
        for rows in (late, ~late):
            out[rows] = self(x[rows], t[rows], None if cond is None else cond[rows])
        return out
