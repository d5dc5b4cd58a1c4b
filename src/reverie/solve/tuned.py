"""A multistep solver whose times and weights were fitted to one model: see `tasks.tune`.

    x_s = sigma_s/sigma_t x_t + (alpha_s - alpha_t sigma_s/sigma_t) m_0 + sum_j w_j (m_j - m_0)                    (1)

DDIM's step and what the estimates before say of where the next ones go. Whatever the weights, it is exact on Dirac data.
"""

import itertools
from dataclasses import dataclass

from reverie.errors import UserError
from reverie.process.path import Path
from reverie.solve.exponential import transfer
from reverie.solve.linear import Linear, Plan, add, knot, unit

DEPTH = 4
"""Estimates that a step may look at."""


@dataclass(frozen=True)
class Tuned(Linear):
    """knots: the times (n + 1,) it was fitted on, from 1 to 0. weights: of step k those of m_1, m_2, ..., at most DEPTH - 1."""

    knots: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    order: int = 1

    def __post_init__(self) -> None:
        steps = len(self.weights)
        falling = all(a > b for a, b in itertools.pairwise(self.knots))
        if len(self.knots) != steps + 1 or not falling or any(len(w) > min(k, DEPTH - 1) for k, w in enumerate(self.weights)):
            raise UserError(
                "a tuned solver has falling times, one more than steps, and per step at most as many weights as estimates"
            )

    @property
    def memory(self) -> int:
        return DEPTH - 1

    def plan(self, path: Path, t: float, s: float, past: tuple[float, ...]) -> Plan:
        pairs = list(itertools.pairwise(self.knots))
        if (t, s) not in pairs:
            raise UserError(
                f"this solver is tuned for its own {len(pairs)} steps and has none from {t:.4g} to {s:.4g}: leave out the grid"
            )
        own, now = self.weights[pairs.index((t, s))], 1 + len(past)
        out = add((1, ddim(path, t, s, now)), (-sum(own), unit(now)), *((w, unit(1 + j)) for j, w in enumerate(own)))
        return Plan(out, keep=(unit(now), *(unit(1 + j) for j in range(len(past))))[: DEPTH - 1])


def ddim(path: Path, t: float, s: float, now: int) -> tuple[float, ...]:
    """The row of eq. (1) without its sum."""
    return transfer(knot(path, t), knot(path, s), [0.0], [unit(now)])
