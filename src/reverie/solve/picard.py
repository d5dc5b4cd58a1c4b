"""Sampling in parallel over time by Picard iteration (ParaDiGMS, arXiv 2305.16317).

A step of a solver that looks at the model once is x_(k+1) = a x_k + b m(x_k) + c z_k. All x_k of a window are guessed, the model is
evaluated on all of them at once, and the steps are taken anew with these estimates; the sequential result is the fixed point, which
is reached after at most as many rounds as steps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.denoiser import Cond, Model
from reverie.errors import UserError
from reverie.process.grids import check
from reverie.process.path import time
from reverie.rng import Rng
from reverie.solve.linear import Linear, awake, combine, draw, floats, ready


@dataclass(frozen=True)
class Parallel:
    """x: the last state. rounds: calls of the model one after the other; steps: how many there would be without it."""

    x: Tensor
    rounds: int
    steps: int

    @property
    def saved(self) -> int:
        """Sequential evaluations saved."""
        return self.steps - self.rounds


@torch.no_grad()
def picard(
    model: Model,
    x: Tensor,
    grid: Tensor,
    solver: Linear,
    *,
    cond: Cond | None = None,
    rng: Rng | None = None,
    window: int = 0,
    tolerance: float = 1e-3,
) -> Parallel:
    """As `sample`, with `window` steps at a time (0 = all): the model sees window x B samples, each at its own time.

    tolerance: a step is done when its rms change is below this share of the state's own rms; 0 = when nothing changes any more.
    """
    grid, path = check(time(grid)), model.path
    if solver.memory:
        raise UserError("picard takes a solver that keeps nothing between steps: ddim, ddpm, euler, dpmpp-1m")
    steps, knots = len(grid) - 1, [floats(t) for t in grid]
    plans = [ready(solver, path, knots[k], knots[k + 1], (), 1) for k in range(steps)]
    if any(p.stages or p.keep for p in plans):
        raise UserError("picard takes a solver that looks at the model once per step: ddim, ddpm, euler, dpmpp-1m")
    noises = [draw(path, x, p.noises, None if rng is None else rng.step(k, grid[k], grid[k + 1])) for k, p in enumerate(plans)]
    states, begin, rounds = [x] * (steps + 1), 0, 0
    while begin < steps:
        stop = min(begin + (window or steps), steps)
        times = awake(torch.cat([t.expand(len(x)) for t in grid[begin:stop]]))
        guess = model(torch.cat(states[begin:stop]), times, _repeat(cond, stop - begin))
        rounds, moved = rounds + 1, []
        for k, m in zip(range(begin, stop), guess.chunk(stop - begin), strict=True):
            new = combine(plans[k].out, [states[k], *noises[k], m])
            moved.append(_moved(new, states[k + 1]) > tolerance)
            states[k + 1] = new
        states[stop + 1 :] = [states[stop]] * (steps - stop)
        begin += 1 + next((k for k, late in enumerate(moved) if late), len(moved) - 1)
    return Parallel(states[-1], rounds, steps)


def _moved(new: Tensor, old: Tensor) -> float:
    """The largest rms change of a sample, as a share of its rms."""
    change, size = ((v.flatten(1).double().square().mean(1)).sqrt() for v in (new - old, new))
    return float((change / size.clamp(min=1e-12)).max())


def _repeat(cond: Cond | None, times: int) -> Cond | None:
    return None if cond is None else Cond.cat([cond] * times)
