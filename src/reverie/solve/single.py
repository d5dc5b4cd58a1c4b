"""Single-step exponential solvers: several estimates inside one step, nothing kept between steps.

DPM-Solver-2 and -3 (arXiv 2206.00927), DPM-Solver++(2S) and (3S) (2211.01095, algorithm 1), and with eta > 0 SEEDS-2 and -3
(2305.14267). Estimates are taken at t + r_i h in lam, each from the polynomial through m_0 and the estimate before it:

    x_(r_i) = eq. (1) of `exponential` to lam_t + r_i h through (0, m_0), (r_(i-1), m_(i-1)),   x_s the same with r = 1   (1)

Order 2 takes the last weight as M_0 / (2 r), as published, in place of M_1 / r. The noise of eta > 0 is one Brownian path: what
drove x_(r_i) drives x_s too.
"""

import math
from dataclasses import dataclass

from reverie.errors import UserError
from reverie.process.path import Path
from reverie.solve.exponential import finite, noise_of, spread, transfer
from reverie.solve.linear import Knot, Linear, Plan, Row, add, at_lam, knot, unit

NODES = {1: (), 2: (1 / 2,), 3: (1 / 3, 2 / 3)}


@dataclass(frozen=True)
class Single(Linear):
    """Of 1-3 estimates a step; `nodes` are its r_i. of: estimates of 'data' or of 'noise'. eta as in `Exponential`, data only."""

    stages: int = 2
    of: str = "data"
    eta: float = 0.0
    nodes: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.stages not in NODES or len(self._nodes) != len(NODES[self.stages]):
            raise UserError(f"Single: stages is {self.stages}; 1, 2 and 3 exist, with stages - 1 nodes")
        if self.of not in ("data", "noise") or (self.eta and self.of == "noise"):
            raise UserError("Single: of is 'data' or 'noise', and eta goes with 'data'")

    @property
    def order(self) -> int:
        """Weak, where noise is drawn."""
        return min(self.stages, 2) if self.eta else self.stages

    @property
    def _nodes(self) -> tuple[float, ...]:
        return NODES.get(self.stages, ()) if self.nodes is None else self.nodes

    def plan(self, path: Path, t: float, s: float, past: tuple[float, ...]) -> Plan:
        a, b = knot(path, t), knot(path, s)
        if not finite(a, b):
            noisy = self.eta > 0 and b.sigma > 0
            row = transfer(a, b, [0.0], [unit(1 + noisy)], self.eta)
            return Plan(add((1, row), (b.sigma, unit(1))) if noisy else row, noises=int(noisy))
        ends = [*(at_lam(path, a.lam + r * (b.lam - a.lam)) for r in self._nodes), b]
        noises = len(ends) if self.eta else 0
        rows = [self._estimate(a, unit(0), 1 + noises)]
        stages: list[tuple[float, Row]] = []
        for k, end in enumerate(ends):
            row = add((1, self._step(a, end, ends[k - 1] if k else None, rows)), *self._noise(a, ends[: k + 1]))
            if end is not b:
                stages.append((end.t, row))
                rows.append(self._estimate(end, row, 2 + noises + k))
        return Plan(row, stages=tuple(stages), noises=noises)

    def _estimate(self, k: Knot, x: Row, m: int) -> Row:
        return unit(m) if self.of == "data" else noise_of(k, m, x)

    def _step(self, a: Knot, end: Knot, last: Knot | None, rows: list[Row]) -> Row:
        if last is None:
            return transfer(a, end, [0.0], rows, self.eta, self.of)
        r = (last.lam - a.lam) / (end.lam - a.lam)
        if self.stages == 2:
            return transfer(a, end, [0.0], [add((1 - 1 / (2 * r), rows[0]), (1 / (2 * r), rows[1]))], self.eta, self.of)
        return transfer(a, end, [0.0, r], [rows[0], rows[-1]], self.eta, self.of)

    def _noise(self, a: Knot, ends: list[Knot]) -> list[tuple[float, Row]]:
        """Each piece of the path up to the last of `ends`, carried on to it."""
        if not self.eta:
            return []
        starts, last = [a, *ends[:-1]], ends[-1]
        return [
            (spread(p, q, self.eta) * last.sigma / q.sigma * math.exp(-self.eta * (last.lam - q.lam)), unit(1 + k))
            for k, (p, q) in enumerate(zip(starts, ends, strict=True))
        ]
