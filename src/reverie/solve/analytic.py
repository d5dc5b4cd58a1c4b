"""The analytical first step: at t = 1, where the state is nearly noise alone, the net is not asked (GENIE, arXiv 2210.05475)."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from reverie.denoiser import Cond, Model
from reverie.process.path import time
from reverie.rng import Rng


@dataclass(frozen=True)
class Analytic:
    """Any solver with one evaluation less: at t = 1 it is told `Path.guess`.

    order: 1 at most, for what the guess leaves out falls only with the length of the first step; it is small where lam(1) is low.
    """

    solver: Any
    order: int = 1

    def init(self) -> Any:
        return self.solver.init()

    def step(
        self, model: Model, x: Tensor, t: Tensor, s: Tensor, state: Any, *, cond: Cond | None, rng: Rng | None
    ) -> tuple[Tensor, Any]:
        out: tuple[Tensor, Any] = self.solver.step(_Guessing(model) if _top(t) else model, x, t, s, state, cond=cond, rng=rng)
        return out


class _Guessing:
    """A model that is asked below t = 1 only."""

    def __init__(self, model: Any) -> None:
        self.model, self.path = model, model.path

    def __call__(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        return self.path.guess(x, t) if _top(time(t)) else self.model(x, t, cond)

    def with_variance(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> tuple[Tensor, Tensor]:
        out: tuple[Tensor, Tensor] = self.model.with_variance(x, t, cond)  # of a variance there is no guess: the net is asked
        return out


def _top(t: Tensor) -> bool:
    return bool((t == 1).all())
