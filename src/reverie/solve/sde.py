"""Solvers that know nothing of the process but its drift and diffusion: the reverse SDE by Euler-Maruyama and by Heun.

With f = alpha'/alpha, g^2 = 2 sigma^2 (sigma'/sigma - f), n the noise estimate, and time that falls (arXiv 2011.13456, eq. 6;
2206.00364, B.5),

    dx = (f x + (1 + eta)/2 g^2 n / sigma) dt + sqrt(eta) g dW                                                     (1)

eta = 0 is the probability-flow ODE in t. They are coarse where exponential solvers are exact, and are what theory speaks of. The
step to s = 0, and the one from where nothing is left of the data, is the exact one for a single estimate.
"""

import math
from dataclasses import dataclass

from reverie.process.path import Path
from reverie.process.spacing import inside
from reverie.solve.exponential import finite, noise_of, spread, transfer
from reverie.solve.linear import Knot, Linear, Plan, Row, add, knot, unit


@dataclass(frozen=True)
class Maruyama(Linear):
    """Eq. (1) by Euler's rule, or with the drift of both ends (heun). Kept: the difference of the two, an estimate of the error."""

    eta: float = 1.0
    heun: bool = False

    def __post_init__(self) -> None:
        inside("Maruyama: eta", self.eta, 0, 10)

    @property
    def order(self) -> int:
        """Of the mean of functions (weak), as of the ODE's."""
        return 2 if self.heun else 1

    def plan(self, path: Path, t: float, s: float, past: tuple[float, ...]) -> Plan:
        a, b = knot(path, t), knot(path, s)
        noisy = self.eta > 0 and b.sigma > 0
        m = 1 + noisy
        if not finite(a, b):
            out = transfer(a, b, [0.0], [unit(m)], self.eta)
            exact = add((1, out), (spread(a, b, self.eta), unit(1))) if noisy else out
            return Plan(exact, keep=(unit(0, 0.0),) * self.heun, noises=int(noisy))
        (f, g2), (f_s, g2_s) = _drift(path, t), _drift(path, s)
        first = self._slope(a, f, g2, unit(0), m)
        size = math.sqrt(self.eta * (t - s) * ((g2 + g2_s) / 2 if self.heun else g2))
        noise = [(size, unit(1))] if noisy else []
        euler = add((1, unit(0)), (s - t, first), *noise)
        if not self.heun:
            return Plan(euler, noises=int(noisy))
        last = self._slope(b, f_s, g2_s, euler, m + 1)
        out = add((1, unit(0)), ((s - t) / 2, first), ((s - t) / 2, last), *noise)
        return Plan(out, stages=((s, euler),), keep=(add((1, out), (-1, euler)),), noises=int(noisy))

    def _slope(self, k: Knot, f: float, g2: float, x: Row, m: int) -> Row:
        return add((f, x), ((1 + self.eta) / 2 * g2 / k.sigma, noise_of(k, m, x)))


def _drift(path: Path, t: float) -> tuple[float, float]:
    """(f, g^2) of eq. (1)."""
    (alpha, sigma), (alpha_rate, sigma_rate) = path(t), path.rates(t)
    f = float(alpha_rate / alpha)
    return f, 2 * float(sigma * sigma_rate) - 2 * float(sigma) ** 2 * f
