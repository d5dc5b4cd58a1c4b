"""Steps whose lengths are chosen by their error: embedded Runge-Kutta pairs, and an adaptive solver of the reverse SDE.

Between two knots of the grid each sample takes steps of its own, until an estimate of the error says that they are short enough:

    E = rms(|x - x~| / (atol + rtol max(|x_t|, |x|))),      accepted if E <= 1,      h <- 0.9 E^(-1/q) h           (1)

x~ is a solution of lower order from the same evaluations (Bogacki-Shampine 3(2), Dormand-Prince 5(4); for the SDE, Euler-Maruyama
within Heun: arXiv 2105.14080). A grid of one step is enough: `[1, 0]`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reverie.denoiser import Cond, Model
from reverie.errors import UserError
from reverie.process.path import like
from reverie.rng import Rng
from reverie.solve.brownian import Brownian
from reverie.solve.linear import at_u
from reverie.solve.runge_kutta import RungeKutta
from reverie.solve.sde import Maruyama

LIMIT = 10_000
"""Attempts between two knots."""


@dataclass(frozen=True)
class Adaptive:
    """pair: a solver whose last kept row estimates its error. smallest: sigma / alpha where the last step to t = 0 begins.

    State: the length of the next step of each sample (B,). Noise is that of one Brownian path, so that refusing an attempt does not
    choose among noises.
    """

    pair: Any
    rtol: float = 1e-3
    atol: float = 1e-3
    smallest: float = 2e-3

    def __post_init__(self) -> None:
        if not (0 < self.rtol < 1 and 0 < self.atol < 1 and self.smallest > 0):
            raise UserError(f"Adaptive: rtol {self.rtol} and atol {self.atol} lie in (0, 1), smallest {self.smallest} above 0")

    @property
    def order(self) -> int:
        return int(self.pair.order)

    def init(self) -> Tensor | None:
        return None

    def step(
        self, model: Model, x: Tensor, t: Tensor, s: Tensor, state: Tensor | None, *, cond: Cond | None, rng: Rng | None
    ) -> tuple[Tensor, Tensor]:
        """Whole steps of eq. (1) from t to s; samples that have arrived are no longer evaluated."""
        path = model.path
        now, target = (c.expand(len(x)).clone() for c in (t, s))
        floor = torch.where(target > 0, target, (now / 2).clamp(max=at_u(path, self.smallest).t))
        h = (now - floor) / 10 if state is None else state.clone()
        tree = None if rng is None else rng if isinstance(rng, Brownian) else Brownian(rng)
        for _ in range(LIMIT):
            rows = (now > floor).nonzero().flatten()
            if not len(rows):
                break
            before, after = now[rows], torch.maximum(now[rows] - h[rows], floor[rows])
            part, given = x[rows], None if cond is None else cond[rows]
            own: Any = None if tree is None else tree.take(rows.tolist()).step(0, before, after)
            y, kept = self.pair.step(model, part, before, after, self.pair.init(), cond=given, rng=own)
            error = self._error(part, y, kept.kept[-1]).double().cpu()
            good = error <= 1
            x = x.index_copy(0, rows[good].to(x.device), y[good.to(x.device)])
            now[rows[good]] = after[good]
            grow = (0.9 * error.clamp(min=1e-12) ** (-1 / self.order)).clamp(0.2, 5.0)
            whole = good & (after == floor[rows])  # a step cut short by the knot says little of the next
            h[rows] = torch.where(whole, h[rows], (before - after) * grow)
        else:
            raise UserError(f"{LIMIT} attempts between t = {float(t.max()):.3g} and {float(s.min()):.3g}: allow larger errors")
        if bool((target == 0).any()):
            due = (target == 0) & (t > 0)
            x = torch.where(like(due, x).bool(), self._last(model, x, torch.maximum(now, floor), cond), x)
        return x, h

    def _error(self, x: Tensor, y: Tensor, gap: Tensor) -> Tensor:
        scale = self.atol + self.rtol * torch.maximum(x.abs(), y.abs())
        return (gap / scale).flatten(1).square().mean(1).sqrt()

    def _last(self, model: Model, x: Tensor, now: Tensor, cond: Cond | None) -> Tensor:
        return like(model.path(0.0)[0], x) * model(x, torch.where(now > 0, now, 1e-3), cond)


def rk23(rtol: float = 1e-3, atol: float = 1e-3) -> Adaptive:
    """Bogacki and Shampine, 1989: four evaluations a step."""
    table = ((), (1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9))
    pair = RungeKutta(3, table, (0.0, 1 / 2, 3 / 4, 1.0), (2 / 9, 1 / 3, 4 / 9, 0.0), (7 / 24, 1 / 4, 1 / 3, 1 / 8))
    return Adaptive(pair, rtol, atol)


def rk45(rtol: float = 1e-4, atol: float = 1e-4) -> Adaptive:
    """Dormand and Prince, 1980: seven evaluations a step."""
    table = (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    )
    lower = (5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40)
    return Adaptive(RungeKutta(5, table, (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0), (*table[-1], 0.0), lower), rtol, atol)


def adaptive_sde(rtol: float = 0.01, atol: float = 0.0078) -> Adaptive:
    """Gotta Go Fast: an adaptive solver of the reverse SDE, of two evaluations a step (arXiv 2105.14080, algorithm 1)."""
    return Adaptive(Maruyama(heun=True), rtol, atol)
