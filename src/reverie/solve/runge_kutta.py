"""Runge-Kutta solvers of the probability-flow ODE, in the variable in which Dirac data is a straight line.

With y = x / (alpha + kappa sigma) and w = sigma / (alpha + kappa sigma):

    y = (1 - kappa w) x_0 + w n,        dy/dw = n - kappa x_0                                                      (1)

kappa = 0 is EDM's sigma space (arXiv 2206.00364, eq. 4) and is used wherever some data is left at t = 1; kappa = 1 is the rectified
flow, finite also where alpha = 0. The step to s = 0 is Euler's: x_s = alpha_s x_0.
"""

import math
from dataclasses import dataclass

from reverie.process.path import Path
from reverie.solve.linear import Knot, Linear, Plan, Row, add, at_lam, knot, unit


@dataclass(frozen=True)
class RungeKutta(Linear):
    """A Butcher tableau: rows of stages, their nodes, and the weights. lower: weights of an embedded solution.

    With `lower` the difference of both solutions is kept, which estimates the error.
    """

    order: int
    table: tuple[tuple[float, ...], ...]
    nodes: tuple[float, ...]
    weights: tuple[float, ...]
    lower: tuple[float, ...] = ()

    def plan(self, path: Path, t: float, s: float, past: tuple[float, ...]) -> Plan:
        a, b = knot(path, t), knot(path, s)
        if s == 0:
            return Plan(unit(1, b.alpha))
        kappa = 0.0 if knot(path, 1.0).alpha > 1e-6 else 1.0
        first, width = _place(a, kappa), _place(b, kappa) - _place(a, kappa)
        y, slopes, stages = unit(0, 1 / _size(a, kappa)), [_slope(a, unit(0), 1, kappa)], []
        for k, (row, node) in enumerate(zip(self.table[1:], self.nodes[1:], strict=True)):
            at = a if node == 0 else b if node == 1 else _at(path, first + node * width, kappa)
            x = add((_size(at, kappa), y), *((_size(at, kappa) * width * c, m) for c, m in zip(row, slopes, strict=True)))
            stages.append((at.t, x))
            slopes.append(_slope(at, x, 2 + k, kappa))
        end = _size(b, kappa)
        out = add((end, y), *((end * width * c, m) for c, m in zip(self.weights, slopes, strict=True)))
        gaps = [(end * width * (c - d), m) for c, d, m in zip(self.weights, self.lower, slopes, strict=False)]
        return Plan(out, stages=tuple(stages), keep=(add(*gaps),) if gaps else ())


def _size(k: Knot, kappa: float) -> float:
    return k.alpha + kappa * k.sigma


def _place(k: Knot, kappa: float) -> float:
    return k.sigma / _size(k, kappa)


def _at(path: Path, w: float, kappa: float) -> Knot:
    return at_lam(path, -math.log(w / (1 - kappa * w)))


def _slope(k: Knot, x: Row, m: int, kappa: float) -> Row:
    """dy/dw at the point x (a row) whose estimate is basis vector m."""
    return add((1 / k.sigma, x), (-k.alpha / k.sigma - kappa, unit(m)))


def euler() -> RungeKutta:
    return RungeKutta(1, ((),), (0.0,), (1.0,))


def heun() -> RungeKutta:
    """The trapezoid EDM uses."""
    return RungeKutta(2, ((), (1.0,)), (0.0, 1.0), (0.5, 0.5))


def midpoint() -> RungeKutta:
    """k-diffusion's DPM-2 takes its middle in log sigma; this is the classical one, in w."""
    return RungeKutta(2, ((), (0.5,)), (0.0, 0.5), (0.0, 1.0))


def rk4() -> RungeKutta:
    return RungeKutta(4, ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (0.0, 0.5, 0.5, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
