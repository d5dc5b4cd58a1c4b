"""How likely the model finds a picture, exactly, by the probability-flow ODE (arXiv 2011.13456, section 4.3).

In the variables of `runge_kutta`, y = x / size and w = sigma / size with size = alpha + kappa sigma, along dy/dw = n - kappa x_0:

    log p(y_0) = log p(y_1) + int div(dy/dw) dw,    div = size ((D - alpha T) / sigma - kappa T),  T = tr dx_0/dx     (1)

T is summed over all directions, or estimated by e . (dx_0/dx) e with random signs e (Hutchinson; arXiv 1810.01367).
"""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from reverie.denoiser import Cond, Model
from reverie.errors import UserError
from reverie.process.path import Path
from reverie.rng import Rng
from reverie.solve.linear import Knot, at_lam, knot


def log_likelihood(
    model: Model, x0: Tensor, *, cond: Cond | None = None, rng: Rng | None = None, steps: int = 100, smallest: float = 1e-3
) -> Tensor:
    """log p(x0) (B,) in nats, of x0 (B, ...), by `steps` steps of RK4, even in log w.

    rng: of Hutchinson's signs; None = the exact trace, for D times the work. smallest: sigma / alpha where it begins.
    """
    path = model.path
    if not path.noise.gaussian:
        raise UserError("this path's noise is not Gaussian, so its density at t = 1 is not known here")
    signs = None if rng is None else (rng.fold("signs").uniform(x0.shape) > 0.5).to(x0) * 2 - 1
    last = knot(path, 1.0)
    kappa = 0.0 if last.alpha > 1e-6 else 1.0

    def rates(y: Tensor, w: float) -> tuple[Tensor, Tensor]:
        k = _at(path, w, kappa)
        size = k.alpha + kappa * k.sigma
        x = size * y
        m, trace = _estimate(lambda v: model(v, torch.tensor(k.t, dtype=torch.float64), cond), x, signs)
        slope = (x - k.alpha * m) / k.sigma - kappa * m
        return slope, size * ((x[0].numel() - k.alpha * trace) / k.sigma - kappa * trace)

    first = at_lam(path, -math.log(smallest))
    size = first.alpha + kappa * first.sigma
    low, high = (math.log(c.sigma / (c.alpha + kappa * c.sigma)) for c in (first, last))
    knots = torch.linspace(low, high, steps + 1, dtype=torch.float64).exp().tolist()
    y, grown = _rk4(rates, x0 * (first.alpha / size), knots)
    dimensions = x0[0].numel()
    x1 = y * (last.alpha + kappa * last.sigma)
    prior = -(x1 / last.sigma).flatten(1).square().sum(1) / 2 - dimensions * math.log(last.sigma * math.sqrt(2 * math.pi))
    scale = math.log((last.alpha + kappa * last.sigma) / size * first.alpha)
    return prior + grown + dimensions * scale


def bits_per_dim(model: Model, pictures: Tensor, *, rng: Rng, cond: Cond | None = None, exact: bool = False, **how: int) -> Tensor:
    """Bits per dimension (B,) of pictures in [-1, 1] on 256 levels, with uniform dequantisation: noise of one level's width."""
    width = 1 / 127.5
    x = pictures + (rng.fold("dequantise").uniform(pictures.shape).to(pictures) - 0.5) * width
    nats = log_likelihood(model, x, cond=cond, rng=None if exact else rng, **how) / pictures[0].numel()
    return -(nats + math.log(width)) / math.log(2)


def _at(path: Path, w: float, kappa: float) -> Knot:
    return knot(path, 1.0) if kappa * w >= 1 else at_lam(path, -math.log(w / (1 - kappa * w)))


def _rk4(rates: Callable[[Tensor, float], tuple[Tensor, Tensor]], y: Tensor, knots: list[float]) -> tuple[Tensor, Tensor]:
    """y at the last knot, and the integral of the second rate."""
    total = torch.zeros(len(y), dtype=torch.float64, device=y.device)
    for a, b in itertools.pairwise(knots):
        h = b - a
        k1, d1 = rates(y, a)
        k2, d2 = rates(y + h / 2 * k1, a + h / 2)
        k3, d3 = rates(y + h / 2 * k2, a + h / 2)
        k4, d4 = rates(y + h * k3, b)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        total = total + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4).double()
    return y, total


def _estimate(f: Callable[[Tensor], Tensor], x: Tensor, signs: Tensor | None) -> tuple[Tensor, Tensor]:
    """(f(x), trace of its Jacobian per sample (B,)), f acting on each sample alone."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        out = f(x)
        directions = [signs] if signs is not None else _units(x)
        trace = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for e in directions:
            (grown,) = torch.autograd.grad(out, x, e, retain_graph=True)
            trace = trace + (grown * e).flatten(1).sum(1)
    return out.detach(), trace


def _units(x: Tensor) -> list[Tensor]:
    """Each direction, for all samples at once."""
    return [
        torch.zeros_like(x).flatten(1).index_fill(1, torch.tensor([k], device=x.device), 1.0).reshape(x.shape)
        for k in range(x[0].numel())
    ]
