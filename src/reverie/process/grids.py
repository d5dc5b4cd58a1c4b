"""Time grids: where the steps are taken. A grid maps (path, steps) to times (steps + 1,), from 1 down to exactly 0.

Grids in the noise-to-signal ratio u = sigma / alpha run from u(1), or `largest` where the signal is gone at t = 1, to `smallest`;
their first knot is t = 1 and every grid's last is 0, so that none stops short of the data.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from reverie.card import remembers
from reverie.errors import UserError
from reverie.process.path import Path

Grid = Callable[[Path, int], Tensor]


def check(grid: Tensor) -> Tensor:
    """A grid of knots (n + 1,) or (n + 1, B): inside [0, 1], strictly falling; else UserError."""
    if len(grid) < 2:
        raise UserError("a grid needs at least one step: ask for steps >= 1")
    if not bool(((grid >= 0) & (grid <= 1)).all()):
        raise UserError(f"a grid's times lie in [0, 1]; got {grid.min():.4g} .. {grid.max():.4g}")
    if not bool((grid[1:] < grid[:-1]).all()):
        raise UserError("a grid must fall strictly from noise (t = 1) to data (t = 0); this one does not")
    return grid


def _units(steps: int) -> Tensor:
    if steps < 1:
        raise UserError(f"steps is {steps}; ask for at least 1")
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def _by_ratio(path: Path, u: Tensor) -> Tensor:
    """Times of the falling ratios u (steps,), with the first moved to t = 1 and 0 appended."""
    t = path.t_of_lam(-u.log())
    t[0] = 1.0
    return torch.cat([t, t.new_zeros(1)])


def _inside(what: str, value: float, low: float, high: float) -> None:
    """UserError unless low <= value <= high; TypeError where it is no number."""
    if not low <= value <= high:
        raise UserError(f"{what} is {value}; it must lie between {low:g} and {high:g}")


def _check_ratios(name: str, smallest: float, largest: float) -> None:
    """UserError unless they are the ends of a grid in u."""
    _inside(f"{name}: smallest", smallest, 1e-9, 1e9)
    _inside(f"{name}: largest", largest, 1e-9, 1e9)
    if smallest >= largest:
        raise UserError(f"{name}: smallest is {smallest}, largest is {largest}; smallest must be less")


def _ends(path: Path, smallest: float, largest: float) -> tuple[float, float]:
    return smallest, min(largest, float((-path.lam(1.0)).exp()))


@remembers
def uniform() -> Grid:
    """Equal steps of t."""
    return lambda path, steps: _units(steps)


@remembers
def quadratic() -> Grid:
    """Knots at squares, finer near the data (arXiv 2010.02502, appendix D.2)."""
    return lambda path, steps: _units(steps) ** 2


@remembers
def karras(rho: float = 7.0, smallest: float = 0.002, largest: float = 80.0) -> Grid:
    """u^(1/rho) in equal steps (arXiv 2206.00364, eq. 5)."""
    _check_ratios("karras", smallest, largest)
    _inside("karras: rho", rho, 0.1, 100)

    def grid(path: Path, steps: int) -> Tensor:
        low, high = _ends(path, smallest, largest)
        _units(steps)
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
        return _by_ratio(path, (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho)

    return grid


@remembers
def exponential(smallest: float = 0.002, largest: float = 80.0) -> Grid:
    """log u in equal steps: uniform in lam (arXiv 2206.00927, section 3.3)."""
    _check_ratios("exponential", smallest, largest)

    def grid(path: Path, steps: int) -> Tensor:
        low, high = _ends(path, smallest, largest)
        _units(steps)
        return _by_ratio(path, torch.exp(torch.linspace(math.log(high), math.log(low), steps, dtype=torch.float64)))

    return grid


@remembers
def lam_uniform(first: float = 1e-3, last: float = 1e-3) -> Grid:
    """lam in equal steps between lam(1 - first) and lam(last), for paths whose times mean more than their ratios."""
    _inside("lam_uniform: first", first, 1e-9, 0.5)
    _inside("lam_uniform: last", last, 1e-9, 0.5)

    def grid(path: Path, steps: int) -> Tensor:
        _units(steps)
        top = path.lam(1.0) if bool(torch.isfinite(path.lam(1.0))) else path.lam(1.0 - first)
        lam = torch.linspace(float(top), float(path.lam(last)), steps, dtype=torch.float64)
        return _by_ratio(path, (-lam).exp())

    return grid


def _table(name: str, knots: Callable[[int, int], Tensor]) -> Callable[[int], Grid]:
    """Integer steps i of a table of T, at t = (i + 1) / T; `knots(T, steps)` gives the falling integers."""

    def make(table: int = 1000) -> Grid:
        _inside(f"{name}: table", table, 1, 1_000_000)
        if table != int(table):
            raise UserError(f"{name}: table is {table}; it must be a whole number")

        def grid(path: Path, steps: int) -> Tensor:
            _units(steps)
            if steps > table:
                raise UserError(f"{steps} steps on a table of {table}: ask for at most {table}")
            return torch.cat([(knots(table, steps).round() + 1) / table, torch.zeros(1, dtype=torch.float64)])

        return grid

    make.__name__ = name
    make.__doc__ = f"The '{name}' spacing of discrete-time nets (named as in arXiv 2305.08891, table 2)."
    return remembers(make)


def _falling(first: float, step: float, steps: int) -> Tensor:
    return first - step * torch.arange(steps, dtype=torch.float64)


leading = _table("leading", lambda table, n: _falling((n - 1) * (table // n), table // n, n))
trailing = _table("trailing", lambda table, n: _falling(table - 1, table / n, n))
linspace = _table("linspace", lambda table, n: torch.linspace(table - 1, 0, n, dtype=torch.float64))

GRIDS = (uniform, quadratic, karras, exponential, lam_uniform, leading, trailing, linspace)
