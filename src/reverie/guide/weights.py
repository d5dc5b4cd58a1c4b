"""Guides that change how far, and in which direction, classifier-free guidance goes: w, u, and c - u.

CFG++ (arXiv:2406.08070, algorithm 2) leaves the noise of a DDIM step from t to s without guidance,

    x_s = alpha_s (u + lam (c - u)) + sigma_s (x - alpha_t u) / sigma_t,                                           (1)

which is DDIM with classifier-free guidance of weight

    w(t, s) = lam alpha_s / (alpha_s - sigma_s alpha_t / sigma_t)                                                  (2)

and so a weight as a function of t on a known grid: large at first, lam in the last step.

CFG-Zero* (arXiv:2503.18886, eq. 9-12) scales the velocity of u by the best share of it in that of c. On any path the velocity is
that of the flow with the same x0 and noise, n - x0 = (y - x0) (alpha + sigma) / sigma with y = x / (alpha + sigma), so that

    u' = y - share (y - u),    share = <y - c, y - u> / |y - u|^2                                                  (3)

and in the first steps the velocity is 0: x0 = y.

APG (arXiv:2410.02416, section 4) acts on d = c - u: momentum, d <- d + beta d_before; at most of a length r; and of its part
along c only a share eta is kept, for that part saturates.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from reverie.card import remembers
from reverie.errors import UserError
from reverie.guide.guidance import Asked, At, Guide, Guided, more, step_of
from reverie.process.path import like, time


@remembers
def interval(low: float = 0.0, high: float = 1.0) -> Guide:
    """Guidance of every kind only where low <= sigma / (alpha + sigma) <= high (arXiv:2404.07724); elsewhere the plain model.

    That is the share of noise: t on a flow, and the same for every path. Outside, the model is evaluated once.
    """
    if not 0 <= low <= high <= 1:
        raise UserError(f"guidance interval {low}..{high}: give 0 <= low <= high <= 1, with 1 for noise alone")

    def join(made: Guided, asked: Asked) -> Guided:
        def gate(t: Tensor) -> Tensor:
            alpha, sigma = asked.plain.path(t)
            share = sigma / (alpha + sigma)
            return (share >= low - 1e-9) & (share <= high + 1e-9)  # whatever its last bits

        return more(made, gates=gate)

    return Guide(join)


@remembers
def cfg_plus(scale: float = 0.6) -> Guide:
    """CFG++: eq. (2) in place of the weight; scale is lam, from 0 to 1. Exact for DDIM, whose steps it speaks of."""
    if not 0 <= scale <= 1:
        raise UserError(f"cfg_plus: scale is {scale}; it lies between 0 (no prompt) and 1, and has nothing to do with --guidance")

    def join(made: Guided, asked: Asked) -> Guided:
        knots, path = time(asked.grid), asked.plain.path
        knots = knots if knots.ndim > 1 else knots[:, None]

        def weigh(t: Tensor, w: Tensor) -> Tensor:
            k, row = step_of(asked.grid, t)[None], knots.expand(-1, len(t))
            (alpha_t, sigma_t), (alpha_s, sigma_s) = path(row.gather(0, k)[0]), path(row.gather(0, k + 1)[0])
            return scale * alpha_s / (alpha_s - sigma_s * alpha_t / sigma_t)

        return more(made, weigh=weigh)

    return Guide(join)


@remembers
def cfg_zero(steps: int = 1) -> Guide:
    """CFG-Zero*: eq. (3), and nothing moves in the first `steps` steps."""
    if steps < 0:
        raise UserError(f"cfg_zero: steps is {steps}; it is how many first steps stand still, 0 or more")

    def join(made: Guided, asked: Asked) -> Guided:
        if steps >= len(asked.grid) - 1:
            raise UserError(
                f"cfg_zero: the first {steps} of {len(asked.grid) - 1} steps stand still, and none is left: take more steps"
            )
        return more(made, against=_best_share, **({"still": lambda t: step_of(asked.grid, t) < steps} if steps else {}))

    return Guide(join)


def _best_share(at: At, u: Tensor) -> Tensor:
    alpha, sigma = at.path(at.t)
    y = at.x / like(alpha + sigma, at.x)
    one, two = (y - at.c).flatten(1), (y - u).flatten(1)
    share = (one * two).sum(1) / two.square().sum(1).clamp(min=1e-12)
    return y - like(share, y) * (y - u)


@remembers
def apg(eta: float = 0.0, norm: float | None = None, momentum: float = 0.0) -> Guide:
    """Adaptive projected guidance. eta: share of what lies along c; norm: the longest d may be, over all entries of a sample;
    momentum: beta, below 0 as published. eta = 1 without the others is classifier-free guidance."""
    if norm is not None and not norm > 0:
        raise UserError(f"apg: norm is {norm}; it is a length above 0, or none")
    if not -1 < momentum < 1:
        raise UserError(f"apg: momentum is {momentum}; it lies between -1 and 1, and is below 0 as published")

    def steer(at: At, step: Tensor, before: Callable[[At, Tensor], Tensor]) -> Tensor:
        step = before(at, step) if momentum else step
        if norm is not None:
            step = step * like((norm / step.flatten(1).norm(dim=1).clamp(min=1e-12)).clamp(max=1), step)
        along = at.c.flatten(1)
        size = (step.flatten(1) * along).sum(1) / along.square().sum(1).clamp(min=1e-12)
        return step - like((1 - eta) * size, step) * at.c

    def join(made: Guided, asked: Asked) -> Guided:
        memory = Memory(momentum)
        return more(made, steers=lambda at, step: steer(at, step, memory))

    return Guide(join)


class Memory:
    """d + beta (what this gave at the time before, which is the last that was asked of, and larger than t), sample by sample.

    All times are kept, so that solvers may ask at one time twice, and tasks may go back: the answer depends on what lies before.
    """

    def __init__(self, beta: float) -> None:
        self.beta, self.past = beta, list[tuple[Tensor, Tensor]]()

    def __call__(self, at: At, step: Tensor) -> Tensor:
        gone = [(torch.where(at.rows & (t <= at.t + 1e-9), -1.0, t) if t.shape == at.t.shape else t, v) for t, v in self.past]
        self.past = [(t, value) for t, value in gone if bool((t > at.t.min() + 1e-9).any())]
        if any(value.shape != step.shape for _, value in self.past):
            raise ValueError("momentum remembers each sample of a batch, and was shown another batch on its way")
        found, before = torch.zeros_like(at.rows), torch.zeros_like(step)
        for t, value in reversed(self.past):
            new = (t > at.t + 1e-9) & ~found
            before, found = torch.where(like(new, step).bool(), value, before), found | new
            if bool(found.all()):
                break
        step = step + self.beta * before
        self.past.append((torch.where(at.rows, at.t, -1.0), step.detach()))
        return step
