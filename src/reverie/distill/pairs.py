"""Pairs of noise and the picture that a teacher's flow makes of it: reflow, and what is learnt of pairs in one step.

    z = noise of t = 1,   x0 = what the teacher makes of it,   x_t = alpha x0 + sigma z                            (1)

reflow      denoising on (1), whose trajectories cross less than those of data and any noise, so that few steps follow them (Liu et
            al., arXiv:2209.03003, algorithm 1); on the model's own path and with its own rule (Rectified Diffusion, Wang et al.,
            arXiv:2410.07303, who show that the path need not be straight). Its prompts are those that the pairs were made of, with
            the teacher's guidance inside (InstaFlow, Liu et al., arXiv:2309.06380, eq. 7)
one_step    x0 of z itself (its eq. 8): of a reflowed model, or of any

    straightness = mean over t of |X_1 - X_0 - dX/dt|^2, over |X_1 - X_0|^2, on a flow path (its eq. 4)              (2)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.card import Card, parse, rebuild, remembers
from reverie.denoiser import Cond, Denoiser
from reverie.distill.shown import Shown, huber
from reverie.process.path import like
from reverie.rng import Rng, digest
from reverie.solve import Solver, sample, trace
from reverie.train.objective import TIMES, denoising


@dataclass(frozen=True)
class Pairs:
    """Denoising on pairs. one: at t = 1 alone, by the distance of the picture."""

    times: Any
    one: bool = False
    hears: tuple[str, ...] = ()
    paired: bool = True
    card: Card = field(default_factory=dict, compare=False)

    def __call__(self, student: Denoiser, shown: Shown) -> Tensor:
        if self.one:
            t = torch.ones(len(shown.n), dtype=torch.float64)
            return huber(student(student.path.spread(shown.n, t, 1.0), t, shown.cond) - shown.x0)
        return denoising(student, shown.x0, shown.times(self.times, student.path), shown.n, shown.cond)


@remembers
def reflow(times: str = "logit_normal(mean=0.5, deviation=1.2)") -> Pairs:
    """Reflow; by a law of times that looks at much noise, where one step decides most."""
    return Pairs(rebuild(parse(times), TIMES, "times"))


@remembers
def one_step() -> Pairs:
    """The picture of the noise itself."""
    return Pairs(None, one=True)


class Store:
    """Pairs by their numbers, made by a teacher when they are first asked for; pair k depends on (seed, k) alone.

    said(k): what it is told; cond: of several of these. count of them there are, of points of `shape`.
    """

    def __init__(
        self,
        teacher: Any,
        count: int,
        shape: tuple[int, ...],
        solver: Solver,
        grid: Tensor,
        said: Callable[[int], Any] | None = None,
        cond: Callable[[Sequence[Any]], Cond | None] = lambda said: None,
        seed: int = 0,
    ) -> None:
        self.teacher, self.solver, self.grid, self.said, self.cond, self.seed = teacher, solver, grid, said, cond, seed
        self.x0, self.n = torch.zeros(count, *shape), torch.zeros(count, *shape)
        self.there = torch.zeros(count, dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.there)

    @torch.no_grad()
    def __call__(self, index: np.ndarray) -> tuple[Tensor, Tensor, list[Any] | None]:
        """(x0, n, what is said) of pairs index (B,)."""
        rows = torch.from_numpy(index)
        if len(absent := rows[~self.there[rows]].unique()):
            rng = Rng(tuple(digest(self.seed, "pair", int(k)) for k in absent))
            path = self.teacher.path
            self.n[absent] = n = path.noise((len(absent), *self.n.shape[1:]), rng.fold("prior"))
            cond = None if self.said is None else self.cond([self.said(int(k)) for k in absent])
            x = path.spread(n, self.grid[0], 1.0)
            self.x0[absent] = sample(self.teacher, x, self.grid, self.solver, cond=cond, rng=rng)
            self.there[absent] = True
        return self.x0[rows], self.n[rows], None if self.said is None else [self.said(int(k)) for k in index]


@torch.no_grad()
def straightness(model: Any, x: Tensor, grid: Tensor, solver: Solver, cond: Cond | None = None) -> Tensor:
    """Eq. (2) per sample (B,), for x at the first time of a grid; each path is looked at as the flow path, x / (alpha + sigma)."""
    path, points, times = model.path, [], []
    alpha, sigma = path(grid[0])
    points.append(x / like(alpha + sigma, x))
    times.append(sigma / (alpha + sigma))
    for step in trace(model, x, grid, solver, cond=cond):
        alpha, sigma = path(step.s)
        points.append(step.x / like(alpha + sigma, x))
        times.append(sigma / (alpha + sigma))
    whole = (points[0] - points[-1]) / float(times[0] - times[-1])
    total = torch.zeros(len(x), dtype=x.dtype)
    for a, b, t, s in zip(points, points[1:], times, times[1:], strict=False):
        gap = float(t - s)
        total = total + gap * ((a - b) / gap - whole).square().flatten(1).sum(1)
    return total / (float(times[0] - times[-1]) * whole.square().flatten(1).sum(1))
