"""Langevin steps at one noise level: annealed Langevin dynamics, and the corrector of predictor-corrector samplers.

At time s the score is -n / sigma, and a step of size e keeps the marginal of x_s as it is (Song and Ermon, arXiv 1907.05600):

    x <- x + e score + sqrt(2 e) z,        e = 2 (r |z| / |score|)^2                                               (1)

with the signal-to-noise ratio r of arXiv 2011.13456 (algorithm 4 and 5), norms per sample.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reverie.denoiser import Cond, Model
from reverie.errors import UserError
from reverie.process.path import like
from reverie.rng import Rng
from reverie.solve.linear import awake


@dataclass(frozen=True)
class Langevin:
    """`steps` steps of eq. (1) at s, after a predictor has stepped there.

    predictor: any solver; None = x stays and only the level changes: annealed Langevin dynamics, with many steps per level.
    """

    predictor: Any = None
    steps: int = 1
    ratio: float = 0.16

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.ratio < 1:
            raise UserError(f"Langevin: steps is {self.steps}, at least 1, and ratio {self.ratio} lies between 0 and 1")

    @property
    def order(self) -> int:
        return 1

    def init(self) -> Any:
        return None if self.predictor is None else self.predictor.init()

    def step(
        self, model: Model, x: Tensor, t: Tensor, s: Tensor, state: Any, *, cond: Cond | None, rng: Rng | None
    ) -> tuple[Tensor, Any]:
        if rng is None:
            raise ValueError("Langevin steps draw noise: give rng")
        done = s == 0
        if self.predictor is not None:
            x, state = self.predictor.step(model, x, t, s, state, cond=cond, rng=rng)
        elif bool(done.any()):
            x0 = like(model.path(s)[0], x) * model(x, awake(t), cond)
            x = torch.where(like(done & (t > 0), x).bool(), x0, x)
        if bool(done.all()):
            return x, state
        for k in range(self.steps):
            x = torch.where(like(done, x).bool(), x, self._correct(model, x, awake(s), cond, rng.fold("langevin", k)))
        return x, state

    def _correct(self, model: Model, x: Tensor, s: Tensor, cond: Cond | None, rng: Rng) -> Tensor:
        alpha, sigma = (like(c, x) for c in model.path(s))
        score = (alpha * model(x, s, cond) - x) / sigma**2
        z = rng.normal(x.shape).to(x)
        size = 2 * (self.ratio * _norm(z) / _norm(score)) ** 2
        return x + size * score + (2 * size).sqrt() * z


def _norm(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1).clamp(min=1e-12).reshape(-1, *[1] * (x.ndim - 1))
