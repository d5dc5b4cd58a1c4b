"""UniPC: a multistep predictor, and a corrector that costs no evaluation (arXiv 2302.04867).

The estimate at t that the next step needs anyway first corrects the step that led to t. With r_j = (lam_j - lam_t)/h,
D_j = (m_j - m_0)/r_j, and B = expm1(-h) (bh2) or -h (bh1):

    x_s = sigma_s/sigma_t x - alpha_s expm1(-h) m_0 - alpha_s B sum_j rho_j D_j                                     (1)
    sum_j rho_j r_j^(i-1) = b_i,   b_i = i! phi_(i+1)(-h) (-h) / B                                                  (2)

The corrector is eq. (1) of the step before, with the new estimate (r = 1) among its nodes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reverie.errors import UserError
from reverie.process.path import Path
from reverie.solve.exponential import finite, transfer
from reverie.solve.linear import Knot, Linear, Plan, Row, add, knot, unit


@dataclass(frozen=True)
class UniPC(Linear):
    """UniPC-p, p 1-3: the predictor's order; the corrector adds one to it. b: bh1 or bh2."""

    p: int = 2
    b: str = "bh2"
    corrector: bool = True

    def __post_init__(self) -> None:
        if self.p not in (1, 2, 3) or self.b not in ("bh1", "bh2"):
            raise UserError(f"UniPC: p is {self.p} and b '{self.b}'; 1 to 3 exist, with 'bh1' or 'bh2'")

    @property
    def order(self) -> int:
        return self.p + self.corrector

    @property
    def memory(self) -> int:
        return self.p

    def plan(self, path: Path, t: float, s: float, past: tuple[float, ...]) -> Plan:
        """Kept: the corrected point of the step before, then the estimates before, newest first."""
        a, b, before = knot(path, t), knot(path, s), [knot(path, p) for p in past]
        rows = [unit(2 + k) for k in range(len(before))]
        m = 2 + len(before) if before else 1
        x = unit(0)
        if self.corrector and before and finite(before[0], a):
            old = [(k, row) for k, row in zip(before[1:], rows[1:], strict=True) if math.isfinite(k.lam)]
            x = self._step(before[0], a, unit(1), rows[0], [*old, (a, unit(m))])
        keep, x = (x, unit(m), *rows)[: 1 + self.p], unit(m + 1)  # from here on x is the corrected one
        usable = [(k, row) for k, row in zip(before, rows, strict=True) if math.isfinite(k.lam)][: self.p - 1]
        out = self._step(a, b, x, unit(m), usable) if finite(a, b) else _onto(x, transfer(a, b, [0.0], [unit(m)]))
        return Plan(out, keep=keep)

    def _step(self, a: Knot, b: Knot, x: Row, m: Row, others: Sequence[tuple[Knot, Row]]) -> Row:
        """Eq. (1) from the point x through the estimate m at a and others elsewhere."""
        h = b.lam - a.lam
        first = math.expm1(-h)
        scale = first if self.b == "bh2" else -h
        r = [(k.lam - a.lam) / h for k, _ in others]
        slopes = [add((1 / r_j, row), (-1 / r_j, m)) for r_j, (_, row) in zip(r, others, strict=True)]
        terms = ((-b.alpha * scale * rho, row) for rho, row in zip(_rho(r, h, scale), slopes, strict=True))
        return add((b.sigma / a.sigma, x), (-b.alpha * first, m), *terms)


def _onto(x: Row, row: Row) -> Row:
    """The row with the point x in the place of basis vector 0."""
    return add((row[0], x), (1, (0.0, *row[1:])))


def _rho(r: list[float], h: float, scale: float) -> list[float]:
    """Eq. (2); one node alone has weight 1/2, as published."""
    if len(r) <= 1:
        return [0.5] * len(r)
    phi, b = math.expm1(-h) / -h - 1, []
    for i in range(1, len(r) + 1):
        b.append(phi * math.factorial(i) / scale)
        phi = phi / -h - 1 / math.factorial(i + 1)
    powers = np.vander(np.array(r), len(r), increasing=True).T
    return list(np.linalg.solve(powers, np.array(b)).tolist())
