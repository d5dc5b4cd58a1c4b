"""ER-SDE solvers: the extended reverse SDE with a chosen share of noise (arXiv 2309.06169).

With u = sigma / alpha, y = x / alpha and a noise scale h(u) that falls to 0 with u, r = h(u_s) / h(u_t):

    y_s = r y_t + x_0(u_s) - r x_0(u_t) + h(u_s) int_(u_s)^(u_t) x_0'(u) / h(u) du + sqrt(u_s^2 - r^2 u_t^2) z         (1)

x_0(u) is the polynomial in u through the last estimates. h(u) = u is an ODE solver, u^2 the reverse SDE; the published scale is
u (e^(u^0.3) + 10).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from reverie.errors import UserError
from reverie.process.path import Path
from reverie.solve.linear import Knot, Linear, Plan, add, knot, unit

SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "er-sde": lambda u: u * (np.exp(u**0.3) + 10),
    "sde": lambda u: u**2,
    "ode": lambda u: u,
}


@dataclass(frozen=True)
class ERSDE(Linear):
    """depth: estimates of the polynomial, 1-3. scale: h, 'er-sde', 'sde' or 'ode'."""

    depth: int = 3
    scale: str = "er-sde"

    def __post_init__(self) -> None:
        if self.depth not in (1, 2, 3) or self.scale not in SCALES:
            raise UserError(f"ERSDE: depth is {self.depth} and scale '{self.scale}'; 1 to 3 exist, with {', '.join(SCALES)}")

    @property
    def order(self) -> int:
        """Weak, where noise is drawn."""
        return self.depth if self.scale == "ode" else min(self.depth, 2)

    @property
    def memory(self) -> int:
        return self.depth - 1

    def plan(self, path: Path, t: float, s: float, past: tuple[float, ...]) -> Plan:
        a, b, before = knot(path, t), knot(path, s), [knot(path, p) for p in past]
        keep_from = [unit(1 + k) for k in range(len(before))]
        r = self._ratio(a, b)
        v = b.sigma if not math.isfinite(a.u) else b.alpha * math.sqrt(max(b.u**2 - (r * a.u) ** 2, 0.0))
        if self.scale == "ode":
            v = 0.0
        noisy = v > 0
        m = 1 + len(before) + noisy
        known = [(k, row) for k, row in zip(before, keep_from, strict=True) if math.isfinite(k.u)]
        rows = [unit(m), *(row for _, row in known)]
        if not b.u or not math.isfinite(a.u):
            stay, terms = (b.sigma / a.sigma if self.scale == "ode" else 0.0), [(b.alpha, unit(m))]
        else:
            shares = self._weights(a, b, [0.0, *(k.u - a.u for k, _ in known)], r)
            stay, terms = r * b.alpha / a.alpha, [(b.alpha * w, row) for w, row in zip(shares, rows, strict=True)]
        noise = [(v, unit(1 + len(before)))] if noisy else []
        return Plan(add((stay, unit(0)), *terms, *noise), keep=(unit(m), *keep_from)[: self.depth - 1], noises=int(noisy))

    def _ratio(self, a: Knot, b: Knot) -> float:
        h = SCALES[self.scale]
        return float(h(np.array(b.u)) / h(np.array(a.u))) if b.u and math.isfinite(a.u) else 0.0

    def _weights(self, a: Knot, b: Knot, nodes: list[float], r: float) -> list[float]:
        """Of the estimates in eq. (1) without y and z: what it makes of the powers of u - u_t decides them."""
        h, points = SCALES[self.scale], np.polynomial.legendre.leggauss(32)
        u = b.u * (a.u / b.u) ** ((points[0] + 1) / 2)  # even in log u, where h varies evenly
        density = points[1] / 2 * math.log(a.u / b.u) * u * float(h(np.array(b.u))) / h(u)
        made = [1 - r]
        made += [(b.u - a.u) ** k + float(density @ (k * (u - a.u) ** (k - 1))) for k in range(1, len(nodes))]
        powers = np.vander(np.array(nodes), len(nodes), increasing=True).T
        return list(np.linalg.solve(powers, np.array(made)).tolist())
