"""Adams methods on the noise: the oldest multistep solvers, and those of the field's first fast samplers.

With u = sigma / alpha the probability-flow ODE says that x / alpha grows by the noise itself:

    x_s / alpha_s = x_t / alpha_t + int_(u_t)^(u_s) n du                                                           (1)

n is the polynomial through the last estimates, where they are (LMS) or as if their steps were even (PLMS, arXiv 2202.09778;
iPNDM, arXiv 2204.13902). Where nothing is left of the data at t, the step is DDIM's.
"""

import math
from dataclasses import dataclass

import numpy as np

from reverie.errors import UserError
from reverie.process.path import Path
from reverie.solve.exponential import noise_of, transfer
from reverie.solve.linear import Linear, Plan, add, knot, unit

EVEN = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Adams-Bashforth weights of evenly spaced estimates, newest first."""


@dataclass(frozen=True)
class Adams(Linear):
    """Through the last `depth` estimates, 1-4. table: the weights of 1, 2, ... of them; without one, those of the polynomial (LMS).

    The order of convergence is `depth`; with a table it is that where the steps of u are even, and at most 2 elsewhere.
    """

    depth: int = 4
    table: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.depth not in (1, 2, 3, 4) or (self.table and len(self.table) < self.depth):
            raise UserError(f"Adams: depth is {self.depth}; 1 to 4 exist, and a table needs a row for each")

    @property
    def order(self) -> int:
        if not self.table:
            return self.depth
        return 2 if self.depth > 1 and self.table[1] == EVEN[1] else 1

    @property
    def memory(self) -> int:
        return self.depth - 1

    def plan(self, path: Path, t: float, s: float, past: tuple[float, ...]) -> Plan:
        a, b, before = knot(path, t), knot(path, s), [knot(path, p) for p in past]
        now = 1 + len(before)
        estimates = [noise_of(a, now), *(unit(1 + k) for k in range(len(before)))]
        keep = tuple(estimates[: self.depth - 1])
        if not math.isfinite(a.u):
            return Plan(transfer(a, b, [0.0], [unit(now)]), keep=keep)
        nodes = [(k.u - a.u) / (b.u - a.u) for k in before if math.isfinite(k.u)]
        weights = self.table[len(nodes)] if self.table else _through([0.0, *nodes])
        step = b.alpha * (b.u - a.u)
        terms = ((step * w, row) for w, row in zip(weights, estimates[: 1 + len(nodes)], strict=True))
        return Plan(add((b.alpha / a.alpha, unit(0)), *terms), keep=keep)


def _through(nodes: list[float]) -> tuple[float, ...]:
    """Weights of the integral over [0, 1] of the polynomial through these nodes."""
    powers = np.vander(np.array(nodes), len(nodes), increasing=True).T
    return tuple(np.linalg.solve(powers, 1 / np.arange(1.0, len(nodes) + 1)).tolist())


def lms(depth: int = 4) -> Adams:
    """k-diffusion's linear multistep."""
    return Adams(depth)


def ipndm(depth: int = 4) -> Adams:
    """Improved PNDM: lower orders first (arXiv 2204.13902, appendix)."""
    return Adams(depth, EVEN[:depth])


def gradient_estimation(gamma: float = 2.0) -> Adams:
    """The last noise, leant away from the one before (arXiv 2306.04848)."""
    return Adams(2, ((1.0,), (gamma, 1 - gamma)))
