"""Exponential solvers in lam = log(alpha / sigma): the linear part of the reverse process exactly, the rest by a polynomial.

With c = 1 + eta and h = lam_s - lam_t the reverse process with frozen coefficients has the exact solution, in data or in noise,

    x_s = sigma_s/sigma_t e^(-eta h) x_t + alpha_s int_0^1 c h e^(-c h (1 - u)) x_0(u) du
          + sigma_s sqrt(1 - e^(-2 eta h)) z                                                                        (1)
    x_s = alpha_s/alpha_t x_t - c sigma_s int_0^1 h e^(h (1 - u)) n(u) du + sigma_s sqrt(eta) sqrt(e^(2 h) - 1) z   (2)

(arXiv 2206.00927, 2211.01095, eq. 8; eta = 1: its SDE forms; between: 2305.14267). x_0(u) or n(u) is replaced by the polynomial
through the estimates at nodes u_j, which makes of the integral weights w_j with

    sum_j w_j u_j^k = M_k(z) = int_0^1 z e^(-z (1 - u)) u^k du,     M_k = 1 - k/z M_(k-1),     z = c h or -h        (3)

At s = 0, and where nothing is left of the data at t, x_s = alpha_s x_0 + sigma_s n of the one estimate there is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from reverie.errors import UserError
from reverie.process.path import Path
from reverie.solve.linear import Knot, Linear, Plan, Row, add, knot, unit


@lru_cache(maxsize=8192)
def moments(z: float, count: int) -> tuple[float, ...]:
    """M_0 .. M_(count-1) of eq. (3); by their series where the recursion would cancel."""
    if abs(z) < 1:
        return tuple(
            sum((-1) ** j * math.factorial(k) / math.factorial(j + k + 1) * z ** (j + 1) for j in range(20)) for k in range(count)
        )
    out = [-math.expm1(-z)]
    for k in range(1, count):
        out.append(1 - k / z * out[-1])
    return tuple(out)


def weights(nodes: Sequence[float], z: float) -> tuple[float, ...]:
    """w_j of eq. (3)."""
    powers = np.vander(np.array(nodes), len(nodes), increasing=True).T
    return tuple(np.linalg.solve(powers, np.array(moments(z, len(nodes)))).tolist())


@dataclass(frozen=True)
class Exponential(Linear):
    """Multistep, through the last `depth` estimates (1-4) of 'data', eq. (1), or of 'noise', eq. (2).

    eta: 0 an ODE solver, 1 the SDE's; DPM-Solver++ SDE's eta, which equals DDIM's at 0 and at 1 only.
    start: 'heun' takes the first depth - 1 steps with two evaluations (eta = 0 only): starts of order 1 cap the order at 2.
    published: DPM-Solver++(2M)'s own second weight M_0 / 2 in place of M_1, and 3M's third M_2 / 2 in place of M_2, as the picture
    tools have them; k-diffusion's 3M SDE, which is meant where eta > 0, takes its second step with M_1.
    """

    depth: int = 2
    eta: float = 0.0
    start: str = ""
    published: bool = False
    of: str = "data"

    def __post_init__(self) -> None:
        if self.depth not in (1, 2, 3, 4):
            raise UserError(f"Exponential: depth is {self.depth}; 1 to 4 estimates can be used")
        if self.start not in ("", "heun") or (self.start and (self.eta or self.of == "noise")):
            raise UserError("Exponential: start is '' or 'heun', and 'heun' goes with eta = 0 and estimates of data")
        if self.of not in ("data", "noise"):
            raise UserError(f"Exponential: of is '{self.of}'; estimates are of 'data' or of 'noise'")

    @property
    def order(self) -> int:
        """Weak, where noise is drawn."""
        capped = self.eta > 0 or self.published or (self.of == "data" and not self.start)
        return min(self.depth, 2) if capped else self.depth

    @property
    def memory(self) -> int:
        return self.depth - 1

    def plan(self, path: Path, t: float, s: float, past: tuple[float, ...]) -> Plan:
        a, b, before = knot(path, t), knot(path, s), [knot(path, p) for p in past]
        noisy = self.eta > 0 and b.sigma > 0
        now = 1 + len(before) + noisy  # the basis vector m_0
        kept = [unit(1 + k) for k in range(len(before))]
        estimate = unit(now) if self.of == "data" else noise_of(a, now)
        plan = Plan(self._row(a, b, before, estimate, now), keep=(estimate, *kept)[: self.depth - 1], noises=int(noisy))
        if noisy:
            size = spread(a, b, self.eta, self.of if finite(a, b) else "data")
            return replace(plan, out=add((1, plan.out), (size, unit(1 + len(before)))))
        if self.start and len(before) < self.depth - 1 and b.sigma > 0:
            pair = [unit(now), unit(now + 1)]
            final = (
                transfer(a, b, [0.0, 1.0], pair) if finite(a, b) else transfer(a, b, [0.0], [add((0.5, pair[0]), (0.5, pair[1]))])
            )
            return replace(plan, out=final, stages=((s, plan.out),))
        return plan

    def _row(self, a: Knot, b: Knot, before: Sequence[Knot], estimate: Row, now: int) -> Row:
        if not finite(a, b):
            return transfer(a, b, [0.0], [unit(now)], self.eta)
        nodes = [(k.lam - a.lam) / (b.lam - a.lam) for k in before if math.isfinite(k.lam)]
        rows = [estimate, *(unit(1 + k) for k in range(len(nodes)))]
        row = transfer(a, b, [0.0, *nodes], rows, self.eta, self.of)
        if not self.published or not nodes or len(nodes) > 2 or (len(nodes) == 1 and self.depth == 3 and self.eta):
            return row
        m0, *higher = moments(_z(a, b, self.eta, self.of), 1 + len(nodes))
        f = factor(a, b, self.eta, self.of)
        excess = f * (m0 / 2 - higher[0]) if len(nodes) == 1 else -f * higher[1] / 2
        return add((1, row), *((excess * c, r) for c, r in zip(_divided([0.0, *nodes]), rows, strict=True)))


def _divided(nodes: Sequence[float]) -> list[float]:
    """Weights of the divided difference: the leading coefficient of the polynomial through the nodes."""
    return [1 / math.prod(x - y for j, y in enumerate(nodes) if j != i) for i, x in enumerate(nodes)]


def transfer(a: Knot, b: Knot, nodes: Sequence[float], rows: Sequence[Row], eta: float = 0.0, of: str = "data") -> Row:
    """Eq. (1) or (2) without its noise, through the estimates `rows` at `nodes`. Where h is infinite: one estimate, of data."""
    if not finite(a, b):
        return add((0.0 if eta else b.sigma / a.sigma, unit(0)), (b.alpha, rows[0]))
    stay = b.sigma / a.sigma * math.exp(-eta * (b.lam - a.lam)) if of == "data" else b.alpha / a.alpha
    f = factor(a, b, eta, of)
    return add((stay, unit(0)), *((f * c, row) for c, row in zip(weights(nodes, _z(a, b, eta, of)), rows, strict=True)))


def factor(a: Knot, b: Knot, eta: float, of: str) -> float:
    """What stands before the integral."""
    return b.alpha if of == "data" else (1 + eta) * b.sigma


def _z(a: Knot, b: Knot, eta: float, of: str) -> float:
    return (1 + eta) * (b.lam - a.lam) if of == "data" else a.lam - b.lam


def spread(a: Knot, b: Knot, eta: float, of: str = "data") -> float:
    """What stands before z."""
    h = b.lam - a.lam
    return b.sigma * math.sqrt(-math.expm1(-2 * eta * h) if of == "data" else eta * math.expm1(2 * h))


def noise_of(k: Knot, m: int, x: Row = (1.0,)) -> Row:
    """The noise estimate (x - alpha m) / sigma at a knot, of the point x (a row) whose estimate is basis vector m."""
    return add((1 / k.sigma, x), (-k.alpha / k.sigma, unit(m)))


def finite(a: Knot, b: Knot) -> bool:
    """Whether the step has a length in lam."""
    return math.isfinite(a.lam) and math.isfinite(b.lam)
