"""From data back to noise: the inverse of a solver's own steps, exactly; and mixtures of seeds.

A deterministic step x_s = F(x_t) is inverted by the iteration

    x <- x + g (x_s - F(x)),        g = s.y / y.y,      s, y: the last changes of x and of F(x), per sample         (1)

(Barzilai and Borwein, 1988), which suits F because the slope of an exact denoiser is symmetric: it is a covariance. g is kept
between the inverse slopes of F for a denoiser that keeps what it is given, alpha_t/alpha_s, and for one that does not look,
sigma_t/sigma_s. What is found returns to the picture by the same solver on the same grid.
"""

import torch
from torch import Tensor

from reverie.denoiser import Cond, Model
from reverie.errors import UserError
from reverie.process.grids import check
from reverie.process.path import like, time
from reverie.solve.linear import Linear


@torch.no_grad()
def invert(
    model: Model,
    x0: Tensor,
    grid: Tensor,
    solver: Linear,
    *,
    cond: Cond | None = None,
    tolerance: float = 1e-5,
    rounds: int = 100,
) -> Tensor:
    """x at the grid's first time, from which `sample` on this grid with this solver comes to x0 (B, ...).

    grid (n + 1,) or (n + 1, B) falls, as for sampling. tolerance: rms of what remains of each step. rounds: evaluations of each
    step at most.
    Raises UserError where a step cannot be undone that closely: take more steps, or less guidance.
    """
    grid = check(time(grid))
    if solver.memory or bool((grid[-1] != 0).any()):
        raise UserError("invert takes a grid down to 0, and a solver that keeps nothing between steps")
    x = x0
    for k in range(len(grid) - 2, -1, -1):
        x = _undone(model, x, grid[k], grid[k + 1], solver, cond, tolerance, rounds)
    return x


def _undone(
    model: Model, target: Tensor, t: Tensor, s: Tensor, solver: Linear, cond: Cond | None, tolerance: float, rounds: int
) -> Tensor:
    """x_t of one step, by eq. (1)."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (model.path(end.expand(len(target))) for end in (t, s))
    most = (sigma_t / sigma_s).abs().nan_to_num(1.0, posinf=torch.inf)  # some paths end at -0; 0 / 0: it has arrived already
    least = alpha_t / alpha_s
    gain = torch.where(least > 0, least, most)
    x, made, rest = like(torch.where(least > 0, least, 1.0), target) * target, None, target
    for _ in range(rounds):
        now = solver.step(model, x, t, s, solver.init(), cond=cond, rng=None)[0]
        if made is not None:
            move, change = (v.flatten(1).double() for v in (like(gain, x) * rest, now - made))
            slope = ((move * change).sum(1) / change.square().sum(1)).cpu()
            gain = torch.where(slope.isnan(), least, slope).clamp(least, most)
        made, rest = now, target - now
        if float(rest.flatten(1).square().mean(1).sqrt().max()) <= tolerance:
            return x
        x = x + like(gain, x) * rest
    left = float(rest.square().mean().sqrt())
    raise UserError(f"the step from t = {float(t.max()):.3g} is not undone in {rounds} rounds (rms {left:.1e}): use more steps")


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Noise between a and b (B, ...) on the sphere they span, per sample: every mixture looks like noise (Shoemake, 1985)."""
    u, v = (x.flatten(1) / x.flatten(1).norm(dim=1, keepdim=True) for x in (a, b))
    angle = (u * v).sum(1).clamp(-1, 1).acos()
    flat = angle.sin() < 1e-6
    safe = torch.where(flat, 1.0, angle.sin())
    first = torch.where(flat, 1 - share, ((1 - share) * angle).sin() / safe)
    last = torch.where(flat, share, (share * angle).sin() / safe)
    return like(first, a) * a + like(last, b) * b
