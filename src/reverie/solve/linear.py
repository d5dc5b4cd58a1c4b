"""The step that nearly every solver takes: a linear combination of what is known, with weights that only the times decide.

With basis = (x_t, what was kept of earlier steps, fresh noises, the estimates m_0 m_1 ... of this step, what is kept of it):

    m_0 = model(x_t, t),    m_i = model(row_i . basis, t_i),    kept = rows . basis,    x_s = out . basis             (1)

This is a general linear method (Butcher, Math. Comp. 20, 1966). DDIM, DPM-Solver, DEIS, UniPC, Runge-Kutta, Adams, SA-Solver
and SEEDS differ in their rows only, so a solver here is a function from times to rows. Rows are Python floats, made once for
each set of times and remembered: a step costs its arithmetic. Samples of a batch may stand at different times: each has rows of
its own, and one that has arrived at t = 0 stays there.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reverie.denoiser import Cond, Model
from reverie.errors import UserError
from reverie.process.path import Path
from reverie.rng import Rng

Row = tuple[float, ...]
Terms = tuple[tuple[float | Tensor, int], ...]  # (weight, place in the basis)


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


def at_u(path: Path, u: float) -> Knot:
    """The knot where the path has this ratio sigma / alpha."""
    return at_lam(path, -math.log(u)) if u else knot(path, 0.0)


@dataclass(frozen=True)
class Plan:
    """One step as rows of eq. (1). stages: (time, row) of each further estimate. keep: of what the next steps will need.

    A row may be shorter than the basis: what it does not reach has no weight. aim: the time that the one estimate of the step
    bridges to, which a flow map is told.
    """

    out: Row
    stages: tuple[tuple[float, Row], ...] = ()
    keep: tuple[Row, ...] = ()
    noises: int = 0
    aim: float | None = None


class Ready(NamedTuple):
    """A plan made ready: rows without their zeros, and weights and times that may have an entry per sample."""

    out: Terms
    stages: tuple[tuple[Tensor, Terms], ...]
    keep: tuple[Terms, ...]
    noises: int
    aim: Tensor | None


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


class Linear(ABC):
    """A solver that is known by its rows. Subclasses are frozen dataclasses; `memory` is how many earlier times they look at."""

    @property
    def memory(self) -> int:
        return 0

    @abstractmethod
    def plan(self, path: Path, t: float, s: float, past: tuple[float, ...]) -> Plan:
        """The step from t to s < t, after steps from `past`. Basis: see eq. (1)."""

    def init(self) -> State:
        return State()

    def step(
        self, model: Model, x: Tensor, t: Tensor, s: Tensor, state: State, *, cond: Cond | None, rng: Rng | None
    ) -> tuple[Tensor, State]:
        now = floats(t)
        basis = [x, *state.kept] if state.times else [x]  # what is kept without memory is for the caller
        plan = ready(self, model.path, now, floats(s), state.times, len(basis))
        if plan.noises:
            basis += draw(model.path, x, plan.noises, rng)
        basis.append(model(x, awake(t), aimed(model, cond, plan.aim, len(x))))
        for at, terms in plan.stages:
            basis.append(model(combine(terms, basis), at, cond))
        kept = tuple([combine(terms, basis) for terms in plan.keep])
        basis += kept
        return combine(plan.out, basis), State((now, *state.times)[: self.memory], kept)


def aimed(model: Any, cond: Any, aim: Tensor | None, count: int) -> Any:
    """The condition with the time that a flow map aims at; as it is where the net hears none."""
    inner = model
    while inner is not None and not hasattr(inner, "hears"):
        inner = getattr(inner, "model", None)
    if aim is None or inner is None or "target" not in inner.hears:
        return cond
    return replace(cond or Cond(), target=aim.expand(count))


def combine(terms: Terms, basis: Sequence[Tensor]) -> Tensor:
    """The sum of weight x basis vector. A vector alone, with weight 1, is given back as it is."""
    out, ours = basis[0], False
    for k, (c, place) in enumerate(terms):
        v = basis[place]
        if isinstance(c, Tensor):
            c = c.to(v).reshape(c.shape + (1,) * (v.ndim - 1))
            out, ours = (torch.addcmul(out, c, v) if k else c * v), True
        elif k == 0:
            out, ours = (v, False) if c == 1 else (v * c, True)
        elif ours:
            out.add_(v, alpha=c)
        else:
            out, ours = torch.add(out, v, alpha=c), True
    return out if terms else torch.zeros_like(out)


def floats(t: Tensor) -> float | tuple[float, ...]:
    """A time, or one per sample, as numbers that a plan can be remembered by."""
    return tuple(t.tolist()) if t.ndim else float(t)


def awake(t: Tensor) -> Tensor:
    """A sample that has arrived is still evaluated with its batch, at a time where every net has an answer."""
    return torch.where(t == 0, 1e-3, t) if t.ndim else t


def draw(path: Path, x: Tensor, count: int, rng: Rng | None) -> list[Tensor]:
    """The fresh noises of a step."""
    if not count:
        return []
    if rng is None:
        raise ValueError("this solver draws noise: give rng")
    if not path.noise.gaussian:
        raise UserError("this path's noise is not Gaussian: use a solver that draws none, or eta = 0")
    return [path.noise(x.shape, rng.fold("bridge", k)).to(x) for k in range(count)]


def ready(solver: Linear, path: Path, t: Any, s: Any, past: tuple[Any, ...], held: int) -> Ready:
    """The plan of a time, or one whose every weight and time has an entry per sample. held: basis vectors before the noises."""
    if isinstance(t, float):
        return _remembered(solver, path, t, s, past)
    plans = [_planned(solver, path, *at[:2], at[2:]) for at in zip(t, s, *past, strict=True)]
    noises = max(p.noises for p in plans)
    return _stacked([_widened(p, held + p.noises, noises - p.noises) for p in plans], t)


def _widened(plan: Plan, place: int, more: int) -> Plan:
    """The plan where `more` noises that it does not use stand at `place` in the basis."""

    def row(r: Row) -> Row:
        return r[:place] + (0.0,) * more + r[place:] if more and len(r) > place else r

    stages = tuple((at, row(r)) for at, r in plan.stages)
    return Plan(row(plan.out), stages, tuple(map(row, plan.keep)), plan.noises + more, plan.aim)


@lru_cache(maxsize=8192)
def _planned(solver: Linear, path: Path, t: float, s: float, past: tuple[float, ...]) -> Plan:
    return Plan(out=unit(0)) if t == 0 else solver.plan(path, t, s, past)


@lru_cache(maxsize=8192)
def _remembered(solver: Linear, path: Path, t: float, s: float, past: tuple[float, ...]) -> Ready:
    return _stacked([_planned(solver, path, t, s, past)], None)


def _stacked(plans: Sequence[Plan], t: Sequence[float] | None) -> Ready:
    """Plans of one shape as one. Samples with fewer stages than others evaluate x_t again, and give it no weight."""
    depth, kept = max(len(p.stages) for p in plans), max(len(p.keep) for p in plans)
    stages = []
    for k in range(depth):
        some = [p.stages[k] if k < len(p.stages) else (at or 1e-3, unit(0)) for p, at in zip(plans, t or (1,), strict=True)]
        times = torch.tensor([at for at, _ in some], dtype=torch.float64)
        stages.append((times if t else times[0], _columns([row for _, row in some])))
    keep = tuple(_columns([p.keep[k] if k < len(p.keep) else () for p in plans]) for k in range(kept))
    aims = [p.aim for p in plans]
    aim = None if all(a is None for a in aims) else torch.tensor([a or 0.0 for a in aims], dtype=torch.float64)
    return Ready(
        _columns([p.out for p in plans]), tuple(stages), keep, max(p.noises for p in plans), aim if t or aim is None else aim[0]
    )


def _columns(rows: Sequence[Row]) -> Terms:
    """Rows of all samples as (weight, place): numbers where there is one sample; those that are 0 for all are left out."""
    width = max(map(len, rows))
    columns = zip(*(row + (0.0,) * (width - len(row)) for row in rows), strict=True)
    return tuple((torch.tensor(c, dtype=torch.float64) if len(c) > 1 else c[0], k) for k, c in enumerate(columns) if any(c))
