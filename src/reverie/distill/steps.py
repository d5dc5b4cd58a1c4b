"""A teacher's steps, two or more at once: progressive distillation, shortcuts, and a few steps alone.

A student's step from t to s is to end where several smaller ones do. What they reach, x_s, is said as the clean estimate with
which one step reaches it (`shown.reached`), and the loss is the student's error of its output o against that one's,

    L = |o - o'|^2,    x0' = (x_s - k x_t) / j                                                                      (1)

progressive   two DDIM steps of the teacher, on a grid whose steps halve; each round's teacher is the student of the round before
              (Salimans & Ho, arXiv:2202.00512, algorithm 2)
fast          as many as wanted, along the student's own way, at the times that will be used and no others (simple and fast
              distillation, Zhou et al., arXiv:2409.19681)
shortcut      two steps of the student itself, half as long, beside plain denoising (Frans et al., arXiv:2410.12557, eq. 5)
guidance      none: the guided estimate itself, for the scales that are told (Meng et al., arXiv:2210.03142, eq. 7)
"""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from reverie.card import Card, parse, rebuild, remembers
from reverie.denoiser import Cond, Denoiser
from reverie.distill.shown import Shown, aimed, jump, reached, square
from reverie.errors import UserError
from reverie.process.grids import GRIDS
from reverie.process.path import Path, like
from reverie.solve import Single, sample
from reverie.train.objective import TIMES


def error(student: Denoiser, x: Tensor, t: Tensor, wanted: Tensor, cond: Cond | None) -> Tensor:
    """Eq. (1) in the units of the net's output, (B,): of the clean estimate that is wanted."""
    return square((student(x, t, cond) - wanted) / like(student.solution(t)[1], x))


def knots(grid: str, path: Path, steps: int) -> Tensor:
    """The times of a grid, (n + 1,)."""
    made: Tensor = rebuild(parse(grid), GRIDS, "grid")(path, steps)
    return made


def walked(model: Any, x: Tensor, t: Tensor, s: Tensor, steps: int, cond: Cond | None) -> Tensor:
    """x_s by so many steps of two evaluations (DPM-Solver++ 2S), even in the angle of sigma / alpha, where every path is smooth."""
    path: Path = model.path

    def angle(t: Tensor) -> Tensor:
        return torch.atan2(path(t)[1], path(t)[0])

    way = angle(t) + (angle(s) - angle(t)) * torch.arange(1, steps, dtype=torch.float64) / steps
    return sample(model, x, torch.cat([t[None], path.t_of_lam(-way.tan().log()), s[None]]), Single(2), cond=cond)


class Round(nn.Module):
    """The student as it was when a round of halving began, and which."""

    number: Tensor

    def __init__(self, student: Denoiser) -> None:
        super().__init__()
        self.student = copy.deepcopy(student).requires_grad_(False)
        self.register_buffer("number", torch.zeros((), dtype=torch.int64))

    def begin(self, number: int, student: Denoiser) -> None:
        """Takes the student over, once a round."""
        if int(self.number) != number:
            self.student.load_state_dict(student.state_dict())
            self.number.fill_(number)


@dataclass
class Progressive:
    """Halves the steps from `begin` to `end`; each round has its share of the run."""

    begin: int
    end: int
    grid: str
    hears: tuple[str, ...] = ()
    card: Card = field(default_factory=dict)
    round: Round | None = None

    def beside(self, student: Denoiser, shown: Shown) -> Round:
        """What is kept with the student: its own state of the round before."""
        self.round = Round(student)
        return self.round

    def __call__(self, student: Denoiser, shown: Shown) -> Tensor:
        assert self.round is not None, "a job asks for what it keeps beside the student"
        path, rounds = student.path, (self.begin // self.end).bit_length()
        now = min(rounds - 1, int(shown.share * rounds))
        teacher: Any = shown.taught()
        if now > 0:
            self.round.begin(now, student)
            teacher = self.round.student
        steps = max(self.end, self.begin >> now)
        fine = knots(self.grid, path, 2 * steps)
        k = 2 * (shown.uniform("time") * steps).long()
        t, m, s = fine[k], fine[k + 1], fine[k + 2]
        x = path.mix(shown.x0, shown.n, t)
        with torch.no_grad():
            y = jump(path, x, teacher(x, t, shown.cond), t, m)
            y = jump(path, y, teacher(y, m, shown.cond), m, s)
        return error(student, x, t, reached(path, x, y, t, s), shown.cond)


@remembers
def progressive(begin: int = 16, end: int = 2, grid: str = "quantiles()") -> Progressive:
    """Progressive distillation, from `begin` steps to `end`; the first round's teacher takes twice as many as `begin`."""
    if end < 1 or begin < end or begin % end or (ratio := begin // end) & (ratio - 1):
        raise UserError(f"progressive: begin is {begin} and end {end}; begin is end times a power of 2")
    return Progressive(begin, end, grid)


@dataclass(frozen=True)
class Fast:
    """A student of `steps` steps of a grid, each of which is to be as good as `fine` of the teacher."""

    steps: int
    fine: int
    grid: str
    hears: tuple[str, ...] = ()
    card: Card = field(default_factory=dict, compare=False)

    def __call__(self, student: Denoiser, shown: Shown) -> Tensor:
        path, teacher = student.path, shown.taught()
        times = knots(self.grid, path, self.steps)
        x = path.spread(shown.n, times[0], 1.0)
        total = x.new_zeros(len(x))
        for k in range(self.steps):
            t, s = times[k], times[k + 1]
            with torch.no_grad():
                wanted = reached(path, x, walked(teacher, x, t, s, self.fine, shown.cond), t, s)
            estimate = student(x, t, shown.cond)
            total = total + square((estimate - wanted) / like(student.solution(t)[1], x))
            x = jump(path, x, estimate.detach(), t, s)
        return total / self.steps


@remembers
def fast(steps: int = 2, fine: int = 4, grid: str = "quantiles()") -> Fast:
    """Simple and fast distillation to so many steps."""
    if steps < 1 or fine < 2:
        raise UserError(f"fast: steps is {steps} and fine {fine}; steps is 1 or more, and fine 2 or more")
    return Fast(steps, fine, grid)


@dataclass(frozen=True)
class Shortcut:
    """Steps of 1, 1/2, 1/4 ... 1/`finest` of the way; a share `plain` of the samples learns to denoise."""

    finest: int
    plain: float
    hears: tuple[str, ...] = ("target",)
    card: Card = field(default_factory=dict, compare=False)

    def __call__(self, student: Denoiser, shown: Shown) -> Tensor:
        path, depth = student.path, self.finest.bit_length() - 1
        size = 2.0 ** -(shown.uniform("size") * depth).floor()  # of the whole step: 1 ... 2 / finest
        place = (shown.uniform("time") / size).floor() * size
        t, s = place + size, place
        x = path.mix(shown.x0, shown.n, t)
        with torch.no_grad():
            m = (t + s) / 2
            y = jump(path, x, student(x, t, aimed(shown.cond, m)), t, m)
            y = jump(path, y, student(y, m, aimed(shown.cond, s)), m, s)
            wanted = reached(path, x, y, t, s)
        simple = shown.uniform("plain") < self.plain
        wanted = torch.where(like(simple, x).bool(), shown.x0.to(x), wanted)
        return error(student, x, t, wanted, aimed(shown.cond, torch.where(simple, t, s)))


@remembers
def shortcut(finest: int = 128, plain: float = 0.75) -> Shortcut:
    """A shortcut model, whose steps of every power of 1/2 agree."""
    if finest < 2 or finest & (finest - 1) or not 0 <= plain <= 1:
        raise UserError(f"shortcut: finest is {finest} and plain {plain}; finest is a power of 2, and plain a share")
    return Shortcut(finest, plain)


@dataclass(frozen=True)
class Guidance:
    """One evaluation in place of two, for every scale; from the law of times `times`."""

    times: Any
    hears: tuple[str, ...] = ("guidance",)
    card: Card = field(default_factory=dict, compare=False)

    def __call__(self, student: Denoiser, shown: Shown) -> Tensor:
        t = shown.times(self.times, student.path)
        x = student.path.mix(shown.x0, shown.n, t)
        return error(student, x, t, shown.taught()(x, t, shown.cond), shown.cond)


@remembers
def guidance(times: str = "log_normal(mean=-0.4, deviation=1.4)") -> Guidance:
    """Guidance distillation."""
    return Guidance(rebuild(parse(times), TIMES, "times"))
