"""What a method of few steps is shown, and what it is: a loss of a student, which is a `Denoiser`.

A step from t to s < t with a clean estimate x0 is DDIM's bridge, whatever the path and whatever is estimated:

    X(x, t, s; x0) = k x + j x0,        k = sigma_s / sigma_t,   j = alpha_s - k alpha_t                           (1)

so that every flow map can be said as a clean estimate that is aimed at s (`Cond.target`): a consistency function is aimed at 0,
where j = 1, and the average velocity u of MeanFlow, x - (t - s) u, is the velocity of one on a flow path.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from reverie.card import Card
from reverie.denoiser import Cond, Denoiser, Model
from reverie.errors import UserError
from reverie.guide import Guided
from reverie.process.path import Path, like, time
from reverie.train.loop import Key
from reverie.train.objective import TimeLaw, draw_times


@dataclass(frozen=True)
class Teacher:
    """A model that is imitated, guided by `scale`, or where the condition says a scale, by that."""

    model: Model
    scale: float = 1.0
    empty: Callable[[int], Cond | None] = lambda count: None

    @property
    def path(self) -> Path:
        return self.model.path

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        return self.through(x, t, cond)

    def through(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        """The same, with a gradient to x."""
        scale = None if cond is None else cond.guidance
        cond = cond and replace(cond, guidance=None, target=None)
        if scale is None and self.scale == 1:
            return self.model(x, t, cond)
        told: Any = self.scale if scale is None else lambda t: scale.to(t)
        return Guided(self.model, told, self.empty(len(x)))(x, t, cond)

    def velocity(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        """dx/dt (B, ...) of the probability flow."""
        return velocity(self.path, x, self(x, t, cond), t)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One batch. x0 (B, ...): clean; n: its noise, of deviation 1. share: of the run that is over, 0 to 1."""

    x0: Tensor
    n: Tensor
    key: Key
    cond: Cond | None = None
    teacher: Teacher | None = None
    share: float = 0.0

    def uniform(self, purpose: str) -> Tensor:
        """(B,) float64 in [0, 1)."""
        return torch.rand(len(self.x0), generator=self.key.torch(purpose), dtype=torch.float64)

    def times(self, law: TimeLaw, path: Path, purpose: str = "time") -> Tensor:
        """(B,) float64, one in each of B equal slices of probability."""
        return draw_times(law, path, len(self.x0), self.key.torch(purpose))

    def taught(self) -> Teacher:
        """The teacher; UserError where there is none."""
        if self.teacher is None:
            raise UserError("this method imitates a model: name it with --teacher")
        return self.teacher


class Method(Protocol):
    """How a student is taught. hears: the clocks it is told; card: how it is written."""

    hears: tuple[str, ...]
    card: Card

    def __call__(self, student: Denoiser, shown: Shown) -> Tensor:
        """The loss per sample (B,)."""
        ...


def aimed(cond: Cond | None, s: Tensor) -> Cond:
    """The condition of a map to s (B,)."""
    return replace(cond or Cond(), target=s)


def weights(path: Path, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """(k, j) of eq. (1)."""
    (alpha, sigma), (alpha_s, sigma_s) = path(t), path(s)
    k = sigma_s / sigma
    return k, alpha_s - k * alpha


def jump(path: Path, x: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Eq. (1), in which nothing is drawn."""
    return path.bridge(x, x0, t, s)


def reached(path: Path, x: Tensor, x_s: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The clean estimate with which eq. (1) reaches x_s."""
    k, j = weights(path, t, s)
    return (x_s - like(k, x) * x) / like(j, x)


def velocity(path: Path, x: Tensor, x0: Tensor, t: Tensor) -> Tensor:
    """dx/dt of the probability flow where E[x_0 | x_t] is x0: alpha' x0 + sigma' (x - alpha x0) / sigma."""
    (alpha, sigma), (da, ds) = path(t), path.rates(t)
    rise = ds / sigma
    return like(rise, x) * x + like(da - rise * alpha, x) * x0


def huber(gap: Tensor, c: float = 0.00054) -> Tensor:
    """Pseudo-Huber distance per sample (B,), sqrt(|d|^2 + c^2 D) - c sqrt(D) over sqrt(D) (arXiv:2310.14189, eq. 8)."""
    return (gap.flatten(1).square().mean(1) + c**2).sqrt() - c


def square(gap: Tensor) -> Tensor:
    """Mean square per sample (B,)."""
    return gap.square().flatten(1).mean(1)


def ratio(path: Path, t: Tensor) -> Tensor:
    """u = sigma / alpha at t."""
    return (-path.lam(t)).exp()


def at_ratio(path: Path, u: Tensor) -> Tensor:
    """t where sigma / alpha is u; 0 for u = 0."""
    return path.t_of_lam(-time(u).log())
