"""The step that nearly every solver takes: a linear combination of what is known, with weights that only the times decide.

With basis = (x_t, what was kept of earlier steps, fresh noises, the estimates m_0 m_1 ... of this step):

    m_0 = model(x_t, t),    m_i = model(row_i . basis, t_i),    x_s = out . basis,    kept = rows . basis             (1)

This is a general linear method (Butcher, Math. Comp. 20, 1966). DDIM, DPM-Solver, DEIS, UniPC, Runge-Kutta, Adams, SA-Solver
and SEEDS differ in their rows only, so a solver here is a function from times to rows. Rows are Python floats, made once for
each set of times and remembered: a step costs its arithmetic. Samples of a batch may stand at different times: each has rows of
its own, and one that has arrived at t = 0 stays there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reverie.denoiser import Cond, Model
from reverie.errors import UserError
from reverie.process.path import Path
from reverie.rng import Rng

Row = tuple[float, ...]


class Knot(NamedTuple):
    """A time with what the path has there: u = sigma / alpha and lam = -log u may be infinite."""

    t: float
    alpha: float
    sigma: float
    lam: float
    u: float


@lru_cache(maxsize=8192)
def knot(path: Path, t: float) -> Knot:
    """The knot of a time."""
    alpha, sigma = (float(c) for c in path(t))
    return Knot(t, alpha, sigma, float(path.lam(t)), sigma / alpha if alpha else math.inf)


@lru_cache(maxsize=8192)
def at_lam(path: Path, lam: float) -> Knot:
    """The knot where the path has this lam."""
    return knot(path, float(path.t_of_lam(lam)))


@dataclass(frozen=True)
class Plan:
    """One step as rows. out: of x_s. stages: (time, row) of each further estimate. keep: of what the next steps will need.

    A row may be shorter than the basis: what it does not reach has no weight.
    """

    out: Row
    stages: tuple[tuple[float, Row], ...] = ()
    keep: tuple[Row, ...] = ()
    noises: int = 0


def unit(k: int, value: float = 1.0) -> Row:
    """The row of basis vector k."""
    return (0.0,) * k + (value,)


def add(*terms: tuple[float, Row]) -> Row:
    """The sum of factor x row."""
    width = max(len(row) for _, row in terms)
    return tuple(sum(f * row[k] for f, row in terms if k < len(row) and row[k]) for k in range(width))


class State(NamedTuple):
    """times: of the steps before, newest first; each a float, or one per sample. kept: as the last plan says."""

    times: tuple[float | tuple[float, ...], ...] = ()
    kept: tuple[Tensor, ...] = ()


class Linear:
    """A solver that is known by its rows. Subclasses are frozen dataclasses; `memory` is how many earlier times they look at."""

    @property
    def memory(self) -> int:
        return 0

    def plan(self, path: Path, t: float, s: float, past: tuple[float, ...]) -> Plan:
        """The step from t to s < t, after steps from `past`. Basis: x_t, kept, noises, m_0 and the m of its stages."""
        raise NotImplementedError

    def init(self) -> State:
        return State()

    def step(
        self, model: Model, x: Tensor, t: Tensor, s: Tensor, state: State, *, cond: Cond | None, rng: Rng | None
    ) -> tuple[Tensor, State]:
        now = _floats(t)
        plan = _plan(self, model.path, now, _floats(s), state.times)
        basis = [x, *state.kept, *_noises(model.path, x, plan.noises, rng), model(x, _awake(t), cond)]
        for at, row in plan.stages:
            basis.append(model(combine(row, basis), torch.as_tensor(at, dtype=torch.float64), cond))
        kept = tuple(combine(row, basis) for row in plan.keep)
        return combine(plan.out, basis), State((now, *state.times)[: self.memory], kept)


def combine(row: Row, basis: Sequence[Tensor]) -> Tensor:
    """row . basis. The weights are numbers, or (B,) tensors of numbers; a vector alone is given back as it is."""
    terms = [(c, v) for c, v in zip(row, basis, strict=False) if isinstance(c, Tensor) or c]
    if not terms:
        return torch.zeros_like(basis[0])
    (c, out), *rest = terms
    if isinstance(c, Tensor) or c != 1:
        out = out * _wide(c, out)
    for k, (c, v) in enumerate(rest):
        if isinstance(c, Tensor):
            out = torch.addcmul(out, _wide(c, v), v)
        else:  # the first sum is a new tensor where `out` is still somebody else's
            out = torch.add(out, v, alpha=c) if k == 0 and out is terms[0][1] else out.add_(v, alpha=c)
    return out


def _wide(c: Tensor | float, x: Tensor) -> Tensor | float:
    return c.to(x).reshape(c.shape + (1,) * (x.ndim - 1)) if isinstance(c, Tensor) else c


def _floats(t: Tensor) -> float | tuple[float, ...]:
    return tuple(t.tolist()) if t.ndim else float(t)


def _awake(t: Tensor) -> Tensor:
    """A sample that has arrived is still evaluated with its batch, at a time where every net has an answer."""
    return torch.where(t == 0, 1e-3, t) if t.ndim else t


def _noises(path: Path, x: Tensor, count: int, rng: Rng | None) -> list[Tensor]:
    if not count:
        return []
    if rng is None:
        raise ValueError("this solver draws noise: give rng")
    if not path.noise.gaussian:
        raise UserError("this path's noise is not Gaussian: use a solver that draws none, or eta = 0")
    return [path.noise(x.shape, rng.fold("bridge", k)).to(x) for k in range(count)]


def _plan(solver: Linear, path: Path, t: Any, s: Any, past: tuple[Any, ...]) -> Any:
    """The plan of a time, or one whose every weight and time is a tensor with an entry per sample."""
    if isinstance(t, float):
        return _remembered(solver, path, t, s, past)
    return _stacked([_remembered(solver, path, *at[:2], at[2:]) for at in zip(t, s, *past, strict=True)], t)


@lru_cache(maxsize=8192)
def _remembered(solver: Linear, path: Path, t: float, s: float, past: tuple[float, ...]) -> Plan:
    return Plan(out=unit(0)) if t == 0 else solver.plan(path, t, s, past)


def _stacked(plans: Sequence[Plan], t: Sequence[float]) -> Any:
    """Samples with fewer stages than others evaluate x_t again, and give it no weight."""
    depth, kept = max(len(p.stages) for p in plans), max(len(p.keep) for p in plans)
    stages = [
        [p.stages[k] if k < len(p.stages) else (at or 1e-3, unit(0)) for p, at in zip(plans, t, strict=True)] for k in range(depth)
    ]
    return Plan(
        out=_columns([p.out for p in plans]),
        stages=tuple((torch.tensor([at for at, _ in stage], dtype=torch.float64), _columns([row for _, row in stage])) for stage in stages),  # type: ignore[misc]
        keep=tuple(_columns([p.keep[k] if k < len(p.keep) else () for p in plans]) for k in range(kept)),
        noises=max(p.noises for p in plans),
    )


def _columns(rows: Sequence[Row]) -> Any:
    """Rows of all samples as weights with an entry per sample; those that are 0 for all stay 0."""
    width = max(map(len, rows))
    columns = list(zip(*(row + (0.0,) * (width - len(row)) for row in rows), strict=True))
    return tuple(torch.tensor(c, dtype=torch.float64) if any(c) else 0.0 for c in columns)
