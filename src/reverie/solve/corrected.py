"""Multistep predictors with a corrector that costs no evaluation: UniPC (arXiv 2302.04867) and SA-Solver (2309.05019).

The estimate at t that the next step needs anyway first corrects the step that led to t. With h = lam_s - lam_t a step is

    base = sigma_s/sigma_t e^(-eta h) x + sigma_s sqrt(1 - e^(-2 eta h)) z,      x_s = base + alpha_s sum_j w_j m_j    (1)

and the corrector is the sum of eq. (1) of the step before, on its base, with the new estimate among its nodes. The weights are
those of the polynomial through the estimates (SA-Solver; eta = tau^2), or, with r_j = (lam_j - lam_t)/h, D_j = (m_j - m_0)/r_j
and B = expm1(-h) (bh2) or -h (bh1), UniPC's:

    sum_j w_j m_j = -expm1(-h) m_0 - B sum_j rho_j D_j                                                             (2)
    sum_j rho_j r_j^(i-1) = b_i,   b_i = i! phi_(i+1)(-h) (-h) / B                                                  (3)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reverie.errors import UserError
from reverie.process.path import Path
from reverie.solve.exponential import finite, spread, weights
from reverie.solve.linear import Knot, Linear, Plan, Row, add, knot, unit


@dataclass(frozen=True)
class Corrected(Linear):
    """depth: estimates of the predictor, 1-4; the corrector has one more. by: 'bh1', 'bh2' (eq. 2), 'polynomial' or 'sa'.

    'sa' is the polynomial, but through two estimates bh1's weights, as SA-Solver's authors have it for few steps.
    eta: noise of the SDE, for u = sigma / alpha between low and high; goes with the polynomial and 'sa'.
    """

    depth: int = 2
    by: str = "bh2"
    corrector: bool = True
    eta: float = 0.0
    low: float = 0.0
    high: float = math.inf

    def __post_init__(self) -> None:
        if self.depth not in (1, 2, 3, 4) or self.by not in ("bh1", "bh2", "polynomial", "sa"):
            raise UserError(f"Corrected: depth is {self.depth} and by '{self.by}'; 1 to 4, by 'bh1', 'bh2', 'polynomial' or 'sa'")
        if self.eta < 0 or (self.eta and self.by not in ("polynomial", "sa")):
            raise UserError(f"Corrected: eta is {self.eta}; it is 0 or more, and goes with 'polynomial' and 'sa'")

    @property
    def order(self) -> int:
        """Weak, where noise is drawn."""
        return min(self.depth + self.corrector, 2) if self.eta else self.depth + self.corrector

    @property
    def memory(self) -> int:
        return self.depth

    def plan(self, path: Path, t: float, s: float, past: tuple[float, ...]) -> Plan:
        """Kept: the base of the step before, then the estimates before, newest first."""
        a, b, before = knot(path, t), knot(path, s), [knot(path, p) for p in past]
        held = 1 + len(before) if before else 0
        eta = self._eta(a, b)
        noisy = eta > 0 and b.sigma > 0
        m = 1 + held + noisy
        rows, x = [unit(2 + k) for k in range(len(before))], unit(0)
        if self.corrector and before and finite(before[0], a):
            nodes = [(k, row) for k, row in zip(before[1:], rows[1:], strict=True) if math.isfinite(k.lam)]
            x = add((1, unit(1)), (1, self._sum(before[0], a, rows[0], [*nodes, (a, unit(m))])))
        usable = [(k, row) for k, row in zip(before, rows, strict=True) if math.isfinite(k.lam)][: self.depth - 1]
        base = add((_stay(a, b, eta), x), *([(spread(a, b, eta), unit(1 + held))] if noisy else []))
        out = add((1, unit(m + 1)), (1, self._sum(a, b, unit(m), usable)))
        return Plan(out, keep=(base, unit(m), *rows)[: 1 + self.depth], noises=int(noisy))

    def _eta(self, a: Knot, b: Knot) -> float:
        return self.eta if self.low <= b.u and a.u <= self.high else 0.0

    def _sum(self, a: Knot, b: Knot, m: Row, others: Sequence[tuple[Knot, Row]]) -> Row:
        """alpha_s sum_j w_j m_j of the step from a to b, through m at a and others elsewhere."""
        if not finite(a, b):
            return add((b.alpha, m))
        h = b.lam - a.lam
        r = [(k.lam - a.lam) / h for k, _ in others]
        if self.by in ("polynomial", "sa"):
            z = (1 + self._eta(a, b)) * h
            w = (
                weights([0.0, *r], z)
                if self.by == "polynomial" or len(r) != 1
                else [-math.expm1(-z) - z / (2 * r[0]), z / (2 * r[0])]
            )
            return add(*((b.alpha * c, row) for c, row in zip(w, [m, *(row for _, row in others)], strict=True)))
        first = math.expm1(-h)
        scale = first if self.by == "bh2" else -h
        slopes = [add((1 / r_j, row), (-1 / r_j, m)) for r_j, (_, row) in zip(r, others, strict=True)]
        terms = ((-b.alpha * scale * rho, row) for rho, row in zip(_rho(r, h, scale), slopes, strict=True))
        return add((-b.alpha * first, m), *terms)


def _stay(a: Knot, b: Knot, eta: float) -> float:
    if not finite(a, b):
        return 0.0 if eta else b.sigma / a.sigma
    return b.sigma / a.sigma * math.exp(-eta * (b.lam - a.lam))


def _rho(r: list[float], h: float, scale: float) -> list[float]:
    """Eq. (3); one node alone has weight 1/2, as published."""
    if len(r) <= 1:
        return [0.5] * len(r)
    phi, b = math.expm1(-h) / -h - 1, []
    for i in range(1, len(r) + 1):
        b.append(phi * math.factorial(i) / scale)
        phi = phi / -h - 1 / math.factorial(i + 1)
    powers = np.vander(np.array(r), len(r), increasing=True).T
    return list(np.linalg.solve(powers, np.array(b)).tolist())


def unipc(depth: int = 2, by: str = "bh2") -> Corrected:
    """UniPC-p."""
    return Corrected(depth, by)


def sa_solver(depth: int = 3, tau: float = 1.0, low: float = 0.05, high: float = 1.0) -> Corrected:
    """SA-Solver: noise of tau where low <= u <= high, as published for EDM's nets."""
    return Corrected(depth, "polynomial", eta=tau**2, low=low, high=high)
