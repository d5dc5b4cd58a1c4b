"""Adams methods on the noise: the oldest multistep solvers, and those of the field's first fast samplers.

With u = sigma / alpha the probability-flow ODE says that x / alpha grows by the noise itself:

    x_s / alpha_s = x_t / alpha_t + int_(u_t)^(u_s) n du                                                           (1)

n is the polynomial in u through the last estimates (LMS), or in t (DEIS's tAB, arXiv 2204.13902), or the weights are those of even
steps whatever the steps are (PNDM, arXiv 2202.09778; iPNDM). Where nothing is left of the data at t, the step is DDIM's.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from reverie.errors import UserError
from reverie.process.path import Path
from reverie.solve.exponential import noise_of, transfer
from reverie.solve.linear import Knot, Linear, Plan, Row, add, knot, unit

EVEN = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Adams-Bashforth weights of evenly spaced estimates, newest first."""


@dataclass(frozen=True)
class Adams(Linear):
    """Through the last `depth` estimates, 1-4.

    over: the variable of the polynomial, 'u' or 't'; or table: weights of 1, 2, ... estimates, newest first.
    start: how the first steps are taken. '' with fewer estimates; 'heun' the first one twice, with the mean of both noises (PLMS);
    'rk4' the first three as Runge-Kutta steps of four evaluations (PNDM).
    The order of convergence is `depth`; with a table it is that where the steps of u are even, and at most 2 elsewhere.
    """

    depth: int = 4
    over: str = "u"
    table: tuple[tuple[float, ...], ...] = ()
    start: str = ""

    def __post_init__(self) -> None:
        if self.depth not in (1, 2, 3, 4) or (self.table and len(self.table) < self.depth):
            raise UserError(f"Adams: depth is {self.depth}; 1 to 4 exist, and a table needs a row for each")
        if self.over not in ("u", "t") or self.start not in STARTS:
            raise UserError(f"Adams: over is '{self.over}' and start '{self.start}'; there are 'u' and 't', and {STARTS}")

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
        if len(before) < STARTS[self.start] and b.sigma > 0 and a.u < 1e3:  # where the noises of one step still differ little
            return replace(self._first(path, a, b, now), keep=keep)
        known = [k for k in before if math.isfinite(k.u)]
        rows = estimates[: 1 + len(known)]
        return Plan(along(a, b, now, zip(self._weights(path, a, b, known), rows, strict=True)), keep=keep)

    def _weights(self, path: Path, a: Knot, b: Knot, known: list[Knot]) -> Sequence[float]:
        if self.table:
            return self.table[len(known)]
        if self.over == "u":
            return _through([0.0, *((k.u - a.u) / (b.u - a.u) for k in known)])
        return _over_t(path, a, b, [a.t, *(k.t for k in known)])

    def _first(self, path: Path, a: Knot, b: Knot, now: int) -> Plan:
        """A step that needs no estimates from before: Heun's, or that of Runge and Kutta, in the noise."""
        middle = knot(path, (a.t + b.t) / 2)
        ends = [b] if self.start == "heun" else [middle, middle, b]
        slopes, stages = [noise_of(a, now)], []
        for k, end in enumerate(ends):
            x = along(a, end, now, [(1.0, slopes[-1])])
            stages.append((end.t, x))
            slopes.append(noise_of(end, now + 1 + k, x))
        shares = (1 / 2, 1 / 2) if self.start == "heun" else (1 / 6, 1 / 3, 1 / 3, 1 / 6)
        return Plan(along(a, b, now, zip(shares, slopes, strict=True)), stages=tuple(stages))


STARTS = {"": 0, "heun": 1, "rk4": 3}  # and how many steps they take


def along(a: Knot, b: Knot, now: int, noises: Iterable[tuple[float, Row]]) -> Row:
    """Eq. (1) with the mean noise as (weight, row), the weights' sum being 1.

    It is DDIM's step with the estimate at basis vector `now`, and what the others differ from its noise: x / alpha may be huge.
    """
    step, own = b.alpha * (b.u - a.u), noise_of(a, now)
    others = [(step * w, row) for w, row in noises if row != own]
    return add((1, transfer(a, b, [0.0], [unit(now)])), (-sum(w for w, _ in others), own), *others)


def _through(nodes: list[float]) -> tuple[float, ...]:
    """Weights of the mean over [0, 1] of the polynomial through these nodes."""
    powers = np.vander(np.array(nodes), len(nodes), increasing=True).T
    return tuple(np.linalg.solve(powers, 1 / np.arange(1.0, len(nodes) + 1)).tolist())


def _over_t(path: Path, a: Knot, b: Knot, nodes: list[float]) -> list[float]:
    """Weights of the mean over u of the polynomial in t, by Gauss-Legendre quadrature in t; they sum to 1 exactly."""
    points, shares = np.polynomial.legendre.leggauss(24)
    t = torch.from_numpy(b.t + (a.t - b.t) * (points + 1) / 2)
    (alpha, sigma), (alpha_rate, sigma_rate) = path(t), path.rates(t)
    density = shares * ((sigma_rate * alpha - sigma * alpha_rate) / alpha**2).numpy()
    density /= density.sum()
    others = [float(density @ _lagrange(nodes, k, t.numpy())) for k in range(1, len(nodes))]
    return [1 - sum(others), *others]


def _lagrange(nodes: list[float], k: int, t: np.ndarray) -> np.ndarray:
    """The polynomial that is 1 at node k and 0 at the others."""
    out = np.ones_like(t)
    for j, node in enumerate(nodes):
        if j != k:
            out = out * (t - node) / (nodes[k] - node)
    return out


def lms(depth: int = 4) -> Adams:
    """k-diffusion's linear multistep."""
    return Adams(depth)


def ipndm(depth: int = 4) -> Adams:
    """Improved PNDM: lower orders first (arXiv 2204.13902, appendix)."""
    return Adams(depth, table=EVEN[:depth])


def plms() -> Adams:
    """PNDM without its Runge-Kutta steps, as Stable Diffusion's first tools had it: one evaluation more than steps."""
    return Adams(4, table=EVEN, start="heun")


def pndm() -> Adams:
    """PNDM: nine evaluations more than steps (arXiv 2202.09778)."""
    return Adams(4, table=EVEN, start="rk4")


def deis(depth: int = 3) -> Adams:
    """tAB-DEIS, the polynomial in t (arXiv 2204.13902, eq. 14)."""
    return Adams(depth, over="t")


def gradient_estimation(gamma: float = 2.0) -> Adams:
    """The last noise, leant away from the one before (arXiv 2306.04848)."""
    return Adams(2, table=((1.0,), (gamma, 1 - gamma)))
