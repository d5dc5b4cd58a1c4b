"""What time grids are made of: places on a path by their time, noise-to-signal ratio or share of noise, and checks.

    u = sigma / alpha,      w = sigma / (alpha + sigma) = u / (1 + u)                                               (1)

w is the time of the rectified flow, so that a grid made for flows keeps its noise levels on every path.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from reverie.errors import UserError
from reverie.process.path import Path

Grid = Callable[[Path, int], Tensor]


def check(grid: Tensor) -> Tensor:
    """A grid of knots (n + 1,) or (n + 1, B): inside [0, 1], strictly falling; else UserError."""
    if len(grid) < 2:
        raise UserError("a grid needs at least one step: ask for steps >= 1")
    for column in grid.T.tolist() if grid.ndim > 1 else [grid.tolist()]:
        if not all(0 <= t <= 1 for t in column):
            raise UserError(f"a grid's times lie in [0, 1]; got {min(column):.4g} .. {max(column):.4g}")
        if not all(s < t or (s == t == 0 and grid.ndim > 1) for t, s in itertools.pairwise(column)):  # some arrive before others
            raise UserError("a grid must fall strictly from noise (t = 1) to data (t = 0); this one does not")
    return grid


def inside(what: str, value: float, low: float, high: float) -> None:
    """UserError unless low <= value <= high; TypeError where it is no number."""
    if not low <= value <= high:
        raise UserError(f"{what} is {value}; it must lie between {low:g} and {high:g}")


def check_ratios(name: str, smallest: float, largest: float) -> None:
    """UserError unless they are the ends of a grid in u."""
    inside(f"{name}: smallest", smallest, 1e-9, 1e9)
    inside(f"{name}: largest", largest, 1e-9, 1e9)
    if smallest >= largest:
        raise UserError(f"{name}: smallest is {smallest}, largest is {largest}; smallest must be less")


def check_falling(name: str, values: Sequence[float], high: float) -> None:
    """UserError unless a user's list falls strictly, inside (0, high]."""
    if not values:
        raise UserError(f"{name}: list at least one value, as {name}(1.0, 0.6, 0.2)")
    for value in values:
        if not 0 < value <= high:
            room = "positive" if high == math.inf else f"in (0, {high:g}]"
            raise UserError(f"{name}: {value} is not {room}; only the last may be 0")
    for before, after in itertools.pairwise(values):
        if after >= before:
            raise UserError(f"{name}: {after} follows {before}, but the values must fall, from noise to data")


def check_count(name: str, count: int, steps: int) -> None:
    """UserError unless a user's list has as many steps as are asked for."""
    down(steps)
    if steps != count:
        raise UserError(f"{name} lists {count} steps, and {steps} are asked for: ask for {count}, or list {steps}")


def down(steps: int) -> Tensor:
    """1 .. 0 (steps + 1,) in equal steps."""
    if steps < 1:
        raise UserError(f"steps is {steps}; ask for at least 1")
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def up(steps: int) -> Tensor:
    """0 .. 1 (steps,) in equal steps; of one step, 0."""
    down(steps)
    return torch.linspace(0, 1, steps, dtype=torch.float64)


def top(path: Path) -> float:
    """The largest u of a path; inf where nothing is left of the data at t = 1."""
    return float((-path.lam(1.0)).exp())


def ends(name: str, path: Path, smallest: float, largest: float) -> tuple[float, float]:
    """The ends of a grid in u: within the path, and not below the first step of a discrete table."""
    low = max(smallest, float((-path.lam(1 / path.steps)).exp())) if path.steps else smallest
    high = min(largest, top(path))
    if low >= high:
        raise UserError(f"{name}: it ends at u = {low:g}, but this path begins at {high:.6g}: choose a smaller one")
    return low, high


def by_ratio(name: str, path: Path, u: Tensor) -> Tensor:
    """Times of the falling ratios u (steps,), with the first moved to t = 1 and 0 appended."""
    if len(u) > 1 and float(u[1]) >= top(path):
        raise UserError(f"{name}: its second knot is at u = {float(u[1]):.6g}, beyond this path, which ends at {top(path):.6g}")
    t = path.t_of_lam(-u.log())
    t[0] = 1.0
    return torch.cat([t, t.new_zeros(1)])


def by_share(name: str, path: Path, w: Tensor) -> Tensor:
    """Times of the shares of noise w (steps,), falling from 1: eq. (1), where 1 is the noisiest that the path has."""
    last = top(path)
    w = w * (last / (1 + last) if math.isfinite(last) else 1.0)
    return by_ratio(name, path, w / (1 - w))


def at_steps(path: Path, table: int, i: Tensor) -> Tensor:
    """Times of the steps i of a table, at (i + 1) / T. Between steps of the path's own table, log u is linear where finite."""
    if path.steps != table or bool((i == i.round()).all()):
        return (i + 1) / table
    low = i.floor().clamp(max=table - 2)
    first, second = path.lam((low + 1) / table), path.lam((low + 2) / table)
    lam = first + (i - low) * (second - first)
    return torch.where((i == i.round()) | ~second.isfinite(), (i + 1) / table, path.t_of_lam(lam))


def beta_quantile(p: Tensor, a: float, b: float) -> Tensor:
    """x with I_x(a, b) = p, by bisection in log(x / (1 - x)); I is the continued fraction of DLMF 8.17.22."""
    low, high = torch.full_like(p, -200.0), torch.full_like(p, 200.0)
    for _ in range(64):
        y = (low + high) / 2
        less = _beta_share(y, a, b) < p
        low, high = torch.where(less, y, low), torch.where(less, high, y)
    x = torch.sigmoid((low + high) / 2)
    return torch.where(p <= 0, 0.0, torch.where(p >= 1, 1.0, x))


def _beta_share(y: Tensor, a: float, b: float) -> Tensor:
    """I_x(a, b) at y = log(x / (1 - x))."""
    here = torch.sigmoid(y) < (a + 1) / (a + b + 2)  # elsewhere the fraction of the other tail converges
    return torch.where(here, _tail(torch.where(here, y, 0.0), a, b), 1 - _tail(torch.where(here, 0.0, -y), b, a))


def _tail(y: Tensor, a: float, b: float) -> Tensor:
    x, fraction = torch.sigmoid(y), torch.ones_like(y)
    for m in range(60, 0, -1):
        fraction = 1 + m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)) / fraction
        k = m - 1
        fraction = 1 - (a + k) * (a + b + k) * x / ((a + 2 * k) * (a + 2 * k + 1)) / fraction
    size = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return torch.exp(size + a * torch.nn.functional.logsigmoid(y) + b * torch.nn.functional.logsigmoid(-y)) / a / fraction
