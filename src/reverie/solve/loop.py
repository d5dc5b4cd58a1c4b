"""The sampling loop: a generator, so that progress, preview, cancel and resume are the caller's `for`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from reverie.denoiser import Cond, Model
from reverie.errors import UserError
from reverie.process.grids import check
from reverie.process.path import Path, time
from reverie.rng import Rng

State = Any  # whatever a solver carries from step to step; never changed in place


class Solver(Protocol):
    """A frozen recipe for one step; `order` is the order of convergence that the laws measure."""

    @property
    def order(self) -> int: ...

    def init(self) -> State: ...

    def step(
        self, model: Model, x: Tensor, t: Tensor, s: Tensor, state: State, *, cond: Cond | None, rng: Rng | None
    ) -> tuple[Tensor, State]: ...


@dataclass(frozen=True)
class Step:
    """One step taken: from t to s, the state x at s, the model's first clean estimate x0 in it, and the evaluations so far."""

    index: int
    steps: int
    t: Tensor
    s: Tensor
    x: Tensor
    x0: Tensor
    nfe: int
    state: State = field(repr=False)


class _Watched:
    """A model that counts its evaluations and remembers the first estimate since `clear`."""

    def __init__(self, model: Any) -> None:
        self.model, self.count = model, 0
        self.first: Tensor | None = None

    @property
    def path(self) -> Path:
        path: Path = self.model.path
        return path

    def __call__(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        out: Tensor = self.model(x, t, cond)
        self.first = out if self.first is None else self.first
        self.count += 1
        return out

    def with_variance(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> tuple[Tensor, Tensor]:
        out, share = self.model.with_variance(x, t, cond)
        self.first = out
        self.count += 1
        return out, share


def trace(
    model: Model,
    x: Tensor,
    grid: Tensor,
    solver: Solver,
    *,
    cond: Cond | None = None,
    rng: Rng | None = None,
    begin: Step | None = None,
) -> Iterator[Step]:
    """Every step along `grid` (n + 1,) or (n + 1, B), falling from noise to data; x (B, ...) belongs to its first time.

    Noise of step k is keyed by k. `begin`: a Step of an earlier trace on the same grid, to go on from.
    """
    if not hasattr(solver, "step"):
        name = solver if isinstance(solver, str) else "heun"
        raise UserError(f"the solver is a {type(solver).__name__}, which takes no steps: give reverie.solve.named({name!r})[0]")
    grid = check(time(grid))
    watched = _Watched(model)
    state, first = solver.init(), 0
    if begin is not None:
        x, state, first, watched.count = begin.x, begin.state, begin.index + 1, begin.nfe
    steps, knots = len(grid) - 1, grid.unbind()
    for index in range(first, steps):
        t, s = knots[index], knots[index + 1]
        watched.first = None
        own = None if rng is None else rng.step(index, t, s)
        with torch.no_grad():
            before, (x, state) = x, solver.step(watched, x, t, s, state, cond=cond, rng=own)
        x0 = watched.path.guess(before, t) if watched.first is None else watched.first
        yield Step(index, steps, t, s, x, x0, watched.count, state)


def sample(model: Model, x: Tensor, grid: Tensor, solver: Solver, *, cond: Cond | None = None, rng: Rng | None = None) -> Tensor:
    """The last x of `trace`."""
    for step in trace(model, x, grid, solver, cond=cond, rng=rng):
        x = step.x
    return x


class _Zero:
    """The exact denoiser of data that is always 0."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        return torch.zeros_like(x)

    def with_variance(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(x), torch.zeros_like(x)


def rehearse(solver: Solver, path: Path, grid: Tensor) -> tuple[int, bool]:
    """(evaluations, whether noise is drawn) on this path and grid, found out with data that is always 0, where steps cost nothing.

    A grid that cannot be taken is a UserError here, before a net is paid for.
    """
    model, x = _Zero(path), torch.ones(1, 1)
    try:
        return list(trace(model, x, grid, solver))[-1].nfe, False
    except UserError:
        raise
    except ValueError:  # what a step says that draws noise and is given no rng
        return list(trace(model, x, grid, solver, rng=Rng.of(0)))[-1].nfe, True
