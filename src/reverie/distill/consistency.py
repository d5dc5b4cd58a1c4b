"""Consistency: two points of one trajectory lead to the same end.

Song et al., "Consistency models", arXiv:2303.01469. With f the student aimed at s (0 unless it is a trajectory's), X the jump of
`shown.py`, and r < t,

    L = w(t, r) d(X(x_t, t, s; f(x_t, t, s)), sg X(x_r, r, s; f(x_r, r, s)))                                       (1)

from a teacher:  x_r by a step of its probability flow from x_t (consistency distillation; guided, Luo et al., arXiv:2310.04378;
                 aimed at any s <= r, Kim et al., arXiv:2310.02279, and Zheng et al., arXiv:2402.19159)
without one:     x_r has the x_0 and the noise of x_t (Song & Dhariwal, arXiv:2310.14189; Geng et al., arXiv:2406.14548)

The other end is the student's own, without gradient and, as arXiv:2310.14189 found better, without averaging.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from reverie.card import Card, parse, rebuild, remembers
from reverie.denoiser import Cond, Denoiser
from reverie.distill.shown import Shown, aimed, at_ratio, huber, jump, ratio
from reverie.errors import UserError
from reverie.process.grids import GRIDS
from reverie.process.path import Path, like
from reverie.solve import heun, sample
from reverie.solve.ancestral import DDIM

Pairs = Callable[[Path, Shown], tuple[Tensor, Tensor, Tensor]]  # -> t, r < t and the weight, each (B,) float64


@dataclass(frozen=True)
class Consistency:
    """Equation (1). solver: of the teacher's step, or None without a teacher. wanders: s is drawn between 0 and r."""

    pairs: Pairs
    solver: Any
    wanders: bool = False
    soften: float = 0.00054
    card: Card = field(default_factory=dict, compare=False)

    @property
    def hears(self) -> tuple[str, ...]:
        return ("target",) if self.wanders else ()

    def __call__(self, student: Denoiser, shown: Shown) -> Tensor:
        path = student.path
        t, r, weight = self.pairs(path, shown)
        x = path.mix(shown.x0, shown.n, t)
        y = path.mix(shown.x0, shown.n, r) if self.solver is None else self._stepped(x, t, r, shown)
        s = r * shown.uniform("aim") if self.wanders else torch.zeros_like(t)
        state = torch.get_rng_state()  # both ends forget the same units
        ours = jump(path, x, student(x, t, self._told(shown.cond, s)), t, s)
        torch.set_rng_state(state)
        with torch.no_grad():
            arrived = r == s
            near = torch.where(arrived, t, r)  # where no net is needed, it is asked somewhere else
            theirs = jump(path, y, student(y, near, self._told(shown.cond, s)), near, s)
            theirs = torch.where(like(arrived, y).bool(), y, theirs)
        scale = (path(s)[0] ** 2 + path(s)[1] ** 2).sqrt()
        return weight.to(x) * huber((ours - theirs) / like(scale, x), self.soften)

    def _told(self, cond: Cond | None, s: Tensor) -> Cond | None:
        return aimed(cond, s) if self.wanders else cond

    def _stepped(self, x: Tensor, t: Tensor, r: Tensor, shown: Shown) -> Tensor:
        return sample(shown.taught(), x, torch.stack([t, r]), self.solver, cond=shown.cond)


def _grid(grid: str, steps: int) -> Callable[[Path], Tensor]:
    if steps < 2:
        raise UserError(f"{steps} steps: consistency needs two points of a trajectory, so 2 or more")
    make = rebuild(parse(grid), GRIDS, "grid")
    return lambda path: make(path, steps)


def _neighbours(grid: str, steps: int) -> Pairs:
    """Two knots of a grid that lie side by side."""
    knots = _grid(grid, steps)

    def pairs(path: Path, shown: Shown) -> tuple[Tensor, Tensor, Tensor]:
        every = knots(path)
        k = (shown.uniform("time") * steps).long()
        return every[k], every[k + 1], torch.ones(len(k), dtype=torch.float64)

    return pairs


@remembers
def consistency(steps: int = 18, grid: str = "karras(smallest=0.002, largest=80)", solver: str = "heun") -> Consistency:
    """Consistency distillation (arXiv:2303.01469, algorithm 2), on so many steps of a grid."""
    return Consistency(_neighbours(grid, steps), _solver(solver))


@remembers
def trajectory(steps: int = 18, grid: str = "karras(smallest=0.002, largest=80)", solver: str = "heun") -> Consistency:
    """The same for every time that is aimed at: trajectory consistency (arXiv:2402.19159, algorithm 1)."""
    return Consistency(_neighbours(grid, steps), _solver(solver), wanders=True)


def _solver(name: str) -> Any:
    solvers: dict[str, Any] = {"heun": heun, "ddim": DDIM}
    if name not in solvers:
        raise UserError(f"the teacher's solver is '{name}'; it is heun or ddim: one step, which keeps nothing")
    return solvers[name]()


@remembers
def ict(
    least: int = 10, most: int = 1280, grid: str = "karras(smallest=0.002, largest=80)", mean: float = -1.1, deviation: float = 2.0
) -> Consistency:
    """Improved consistency training (arXiv:2310.14189): the grid's steps double as the run goes on, log sigma is normal."""
    if not 2 <= least <= most:
        raise UserError(f"ict: least is {least} and most {most}; 2 <= least <= most")
    rounds = math.floor(math.log2(most / least)) + 1

    def pairs(path: Path, shown: Shown) -> tuple[Tensor, Tensor, Tensor]:
        knots = _grid(grid, min(most, least * 2 ** min(rounds - 1, int(shown.share * rounds))))(path)
        edges = ratio(path, knots).log()
        below = torch.special.erf((edges - mean) / (2**0.5 * deviation))
        mass = (below[:-1] - below[1:]).cumsum(0)
        k = torch.searchsorted(mass, shown.uniform("time") * mass[-1]).clamp(max=len(mass) - 1)
        u, v = ratio(path, knots[k]), ratio(path, knots[k + 1])
        return knots[k], knots[k + 1], 1 / (u - v)

    return Consistency(pairs, None)


@remembers
def ect(
    mean: float = -1.1, deviation: float = 2.0, rounds: int = 8, factor: float = 2.0, k: float = 8.0, b: float = 1.0
) -> Consistency:
    """Easy consistency tuning of a diffusion model (arXiv:2406.14548, eq. 12): r begins at 0 and comes nearer to t,

    u_r = u_t (1 - n(u_t) / factor^round),   n(u) = 1 + k sigmoid(-b u),   weight 1 / (u_t - u_r).
    """
    if rounds < 1 or not factor > 1:
        raise UserError(f"ect: rounds is {rounds} and factor {factor}; rounds is 1 or more, and the factor above 1")

    def pairs(path: Path, shown: Shown) -> tuple[Tensor, Tensor, Tensor]:
        normal = torch.special.ndtri(shown.uniform("time").clamp(1e-6, 1 - 1e-6))
        u = (mean + deviation * normal).exp()
        t = at_ratio(path, u).clamp(max=1.0)
        u = ratio(path, t)
        step = min(rounds, 1 + int(shown.share * rounds))
        v = (u * (1 - (1 + k * torch.sigmoid(-b * u)) / factor**step)).clamp(min=0)
        r = at_ratio(path, v)
        return t, r, 1 / (u - v)

    return Consistency(pairs, None)
