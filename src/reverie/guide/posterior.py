"""The clean estimate that also knows a measurement: y = A x_0 + n, n ~ N(0, S), by a denoiser around a denoiser.

With the model's x^ = E[x_0 | x_t] and J its Jacobian, Tweedie's formulas (arXiv:2405.13712, section 3) are

    E[x_0 | x_t, y] = x^ + sigma^2 / alpha grad_x log p(y | x_t),        Cov[x_0 | x_t] = V = sigma^2 / alpha J       (1)

and all methods are of one form, with r = y - A x^ and other weights v of what is measured:

    x_0' = x^ + V^T A^T v                                                                                              (2)
    dps:    v = zeta sqrt(m) r / |r|, m = numbers measured                                  Chung et al., arXiv:2209.14687
    pigdm:  (S + r_t^2 A A^T) v = r,  r_t^2 = d^2 sigma^2 / (alpha^2 d^2 + sigma^2)         Song et al., ICLR 2023
    mmps:   (S + A V A^T) v = r                                                             Rozet et al., arXiv:2405.13712

mmps is exact where p(x_0 | x_t) is Gaussian; pigdm where it is isotropic besides, for data of deviation d; dps nowhere, but it
points up the same slope. A may be nonlinear, as a decoder before an operator is: it is then replaced by its tangent at x^. Where
nearly nothing is left of the data (alpha < 0.001 sigma) eq. (1) is 0 times infinity, and the estimate of a little later is taken.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from reverie.card import remembers
from reverie.denoiser import Model
from reverie.errors import UserError
from reverie.guide.kept import Beside
from reverie.process.path import Path, like, time

Forward = Callable[[Tensor], Tensor]
LEAST = math.log(1e-3)
"""Of lam: with less of the data in x_t, the gradient is not asked."""


class Tangent:
    """A (B, ...) -> (B, ...) at a point z: its value, its derivative and the adjoint of that. Attention is taken plainly, since the
    fused kinds have no second derivative."""

    def __init__(self, forward: Forward, z: Tensor) -> None:
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            self._z = z.detach().requires_grad_()
            self._y = forward(self._z)
        self.value = self._y.detach()
        self._w: Tensor | None = None

    def adjoint(self, w: Tensor) -> Tensor:
        return torch.autograd.grad(self._y, self._z, w.to(self._y), retain_graph=True)[0]

    def derivative(self, u: Tensor) -> Tensor:
        """The adjoint is linear in w, and its own adjoint is the derivative."""
        with torch.enable_grad():
            if self._w is None:
                self._w = torch.zeros_like(self._y, requires_grad=True)
                (self._back,) = torch.autograd.grad(self._y, self._z, self._w, create_graph=True)
            return torch.autograd.grad(self._back, self._w, u.to(self._back), retain_graph=True)[0]


@dataclass(frozen=True)
class Seen:
    """What a method may ask. r: y - A x^ (B, ...). variance: S, broadcasts to r. alpha, sigma (B,).

    covariance: u -> V^T u, one backward pass of the model.
    """

    r: Tensor
    variance: Tensor
    alpha: Tensor
    sigma: Tensor
    tangent: Tangent
    covariance: Callable[[Tensor], Tensor]

    def prior(self, spread: float) -> Tensor:
        """r_t^2 (B,): Var[x_0 | x_t] for data of this deviation."""
        return (spread * self.sigma) ** 2 / ((self.alpha * spread) ** 2 + self.sigma**2)


@dataclass(frozen=True)
class Method:
    """What (2) adds to x^."""

    correction: Callable[[Seen], Tensor]


@remembers
def dps(scale: float = 1.0) -> Method:
    """One backward pass, `fitting`. scale: zeta, in 1 / units of y. |r| is taken no smaller than noise alone would have it."""
    _positive("dps", "scale", scale)

    def correction(seen: Seen) -> Tensor:
        known = (seen.r != 0).to(seen.r)
        least, size = (v.flatten(1).sum(1) for v in (seen.variance * known, seen.r**2))
        length = like((known.flatten(1).sum(1) / torch.maximum(least, size).clamp(min=1e-24)).sqrt(), seen.r)
        return fitting(seen, scale * length * seen.r)

    return Method(correction)


@remembers
def pigdm(spread: float = 0.5, steps: int = 5) -> Method:
    """One backward pass, `fitting`. spread: d, the deviation of the data: about 0.5 of pixels, 1 of latents. steps: at most, to v,
    each through the decoder alone; on pixels, masks and means take one."""
    _positive("pigdm", "spread", spread)
    _positive("pigdm", "steps", steps)

    def correction(seen: Seen) -> Tensor:
        def isotropic(v: Tensor) -> Tensor:
            back = seen.tangent.adjoint(v)
            return like(seen.prior(spread), back) * back

        v, _ = solved(isotropic, seen, steps)
        return fitting(seen, v)

    return Method(correction)


@remembers
def mmps(steps: int = 3) -> Method:
    """As many backward passes as steps, at most: those to v."""
    _positive("mmps", "steps", steps)
    return Method(lambda seen: solved(lambda v: seen.covariance(seen.tangent.adjoint(v)), seen, steps)[1])


def fitting(seen: Seen, v: Tensor) -> Tensor:
    """V^T A^T v, or as much of it as makes S v + A V^T A^T v come nearest to r: all of it, where v solves that.

    In noise V is far from what these methods take it for: of data with one colour to a picture it is the larger, in that direction,
    the more pixels there are; and its whole effect would be many times what was measured.
    """
    far = seen.covariance(seen.tangent.adjoint(v))
    effect = seen.variance * v + seen.tangent.derivative(far)
    share = (seen.r * effect).flatten(1).sum(1) / effect.square().flatten(1).sum(1).clamp(min=1e-30)
    return like(share.clamp(0, 1), far) * far


METHODS = (dps, pigdm, mmps)


def _positive(method: str, name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise UserError(f"{method}: {name} is {value}; it must be above 0")


def solved(spread: Callable[[Tensor], Tensor], seen: Seen, steps: int) -> tuple[Tensor, Tensor]:
    """v of (S + A P) v = r, and P v; spread: v -> P v = V A^T v, for V symmetric and not negative. Each sample for itself.

    After k steps v is what conjugate gradients have after k: the solution within span(r, M r, ..., M^(k - 1) r), M = S + A P; here
    from a basis of it (Arnoldi). A net's V is neither quite symmetric nor quite positive, and where it is near -S a solution is
    near infinity. So within the basis its symmetric part is taken, and directions in which that is no larger than the skew part
    are left as they are. What is measured to different precision is first scaled alike, by (S + r_t^2)^(-1/2).
    """
    even = (seen.variance + like(seen.prior(1.0), seen.r)).rsqrt()
    alone = (seen.variance * even**2).expand_as(seen.r)
    first = even * seen.r
    direction, basis, spreads, images = _unit(first, 0 * first), [], [], []
    for _ in range(steps):
        basis.append(direction)
        spreads.append(spread(even * direction))
        images.append(even * seen.tangent.derivative(spreads[-1]))
        new = left = alone * direction + images[-1]
        for q in (*basis, *basis):
            left = left - like((q * left).flatten(1).sum(1), left) * q
        direction = _unit(left, new)
        if not bool(direction.any()):
            break
    q, w = (torch.stack(v, 1).flatten(2).double() for v in (basis, images))
    c = _within(q @ w.mT, (q * alone.flatten(1)[:, None].double()) @ q.mT, (q @ first.flatten(1).double()[..., None])[..., 0])
    v, p = (sum(like(c[:, k], b) * b for k, b in enumerate(some)) for some in (basis, spreads))
    return even * v, p  # type: ignore[return-value]


def _unit(v: Tensor, of: Tensor) -> Tensor:
    """Each v (B, ...) at length 1; 0 where it is no more than the rounding of what it is left of."""
    size, whole = (u.flatten(1).norm(dim=1) for u in (v, of))
    there = size > 100 * torch.finfo(v.dtype).eps * whole
    return like(torch.where(there, 1 / size, 0), v) * v


def _within(spread: Tensor, alone: Tensor, r: Tensor) -> Tensor:
    """c (B, k) of (alone + spread) c = r, within the directions in which the spread (B, k, k) is larger than it is skew."""
    spread = spread.nan_to_num(0.0, 0.0, 0.0)  # of a model that has left the numbers, which is said elsewhere
    even, skew = (spread + spread.mT) / 2, (spread - spread.mT) / 2
    sizes, axes = torch.linalg.eigh(even)
    least = torch.linalg.matrix_norm(skew, 2) + 1e-13 * sizes.abs().amax(-1)
    keep = (sizes > least[:, None]).double()
    own = axes.mT @ (alone + even) @ axes * keep[:, None] * keep[..., None] + torch.diag_embed(1 - keep)
    return (axes @ torch.linalg.solve(own, keep * (axes.mT @ r[..., None])[..., 0])[..., None])[..., 0]


@lru_cache
def earliest(path: Path) -> float:
    """The time before which the gradient is not asked; 1 on most paths."""
    return float(path.t_of_lam(LEAST))


@dataclass(frozen=True)
class Posterior:
    """Equation (2) under a `Beside` whose values are y (B, ...) and S, which broadcasts to it. forward: A, from the space of x_0.

    The weights of the model stay as they are; what comes out carries no gradient.
    """

    model: Model
    forward: Forward
    method: Method

    @property
    def path(self) -> Path:
        return self.model.path

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return self._corrected(lambda x, t: (self.model(x, t, cond.cond), None), x, t, cond)[0]

    def with_variance(self, x: Tensor, t: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """The variance is the model's."""
        model: Any = self.model
        x0, share = self._corrected(lambda x, t: model.with_variance(x, t, cond.cond), x, t, cond)
        assert share is not None
        return x0, share.detach()

    def _corrected(
        self, ask: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]], x: Tensor, t: Tensor, cond: Beside
    ) -> tuple[Tensor, Tensor | None]:
        t = time(t).expand(x.shape[0]).clamp(max=earliest(self.path))
        alpha, sigma = self.path(t)
        grows = like(sigma**2 / alpha, x)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            x0, share = ask(x, t)
        tangent = Tangent(self.forward, x0)
        y, variance = (v.to(tangent.value) for v in cond.values)

        def covariance(u: Tensor) -> Tensor:
            return grows * torch.autograd.grad(x0, x, u.to(x0), retain_graph=True)[0]

        seen = Seen(y - tangent.value, variance, alpha, sigma, tangent, covariance)
        return x0.detach() + self.method.correction(seen), share
