"""Flow maps in continuous time: along a trajectory, where a map leads does not change.

With X the jump of `shown.py` to a fixed s, x_t moved by v = dx/dt, and f the student's estimate, which its output o makes of x_t as
f = a x_t + c o,

    dX/dt = k' x + k v + j' f + j df/dt,        df/dt = (v . d/dx + d/dt) f, by one product with the Jacobian (jvp)   (1)
    g = (t - s) / (j c) dX/dt,      L = w |o - sg(o - g)|^2                                                        (2)

For s = t, where X = x, g is the error of denoising itself; for s = 0, dX/dt is df/dt, and (2) is the consistency model in
continuous time (sCM, Lu & Song, arXiv:2410.11081); on a flow path o is the average velocity u, j c = -(t - s), and (2) is MeanFlow
(Geng et al., arXiv:2505.13447, eq. 10). v is that of the data and its noise, or of a teacher. Improved MeanFlow (arXiv:2512.02012)
moves x in the jvp, and there alone, by the student's own v.
"""

import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from reverie.card import Card, parse, rebuild, remembers
from reverie.denoiser import Cond, Denoiser
from reverie.distill.shown import Shown, aimed, velocity, weights
from reverie.errors import UserError
from reverie.process.path import Path, like
from reverie.train.objective import TIMES, TimeLaw


@dataclass(frozen=True)
class Tangent:
    """Equation (2). apart: the share of samples that aim at s < t; ends: they aim at 0. angle: g is weighed as sCM has it on its
    path, and kept below length 1 (of data alone that leans a little, as far as |g| differs). warm: share of the run over which g
    comes in, in place of the error of denoising. own: of improved MeanFlow. power: of |o - o'|^2 + 0.001, by which the loss is
    divided (arXiv:2505.13447, eq. 22).
    """

    times: TimeLaw
    apart: float = 1.0
    ends: bool = False
    angle: bool = False
    warm: float = 0.0
    own: bool = False
    power: float = 1.0
    card: Card = field(default_factory=dict, compare=False)

    @property
    def hears(self) -> tuple[str, ...]:
        return () if self.ends else ("target",)

    def __call__(self, student: Denoiser, shown: Shown) -> Tensor:
        path, (t, s) = student.path, self._drawn(student.path, shown)
        x = path.mix(shown.x0, shown.n, t)
        cond = shown.cond if self.ends else aimed(shown.cond, s)
        with torch.no_grad():
            v = self._velocity(student, x, t, shown)
            along = velocity(path, x, student(x, t, shown.cond), t) if self.own else v
            f, moved = derivative(student, x, t, along, cond)
            g = gradient(student, x, f, moved, v, t, s)
            if self.warm and shown.share < self.warm:
                plain = gradient(student, x, f, moved, v, t, t)
                g = plain + shown.share / self.warm * (g - plain)
            if self.angle:
                g = like(slant(student, t), g) * g
                g = g / (_length(g) + 0.1)
        take = student.solution(t)[1]
        gap = (student(x, t, cond) - f) / like(take, x) + g
        loss = gap.square().flatten(1).mean(1)
        return loss / (loss.detach() + 1e-3) ** self.power if self.power else loss

    def _drawn(self, path: Path, shown: Shown) -> tuple[Tensor, Tensor]:
        t = shown.times(self.times, path)
        if self.ends:
            return t, torch.zeros_like(t)
        other = shown.times(self.times, path, "aim")
        high, low = torch.maximum(t, other), torch.minimum(t, other)
        return high, torch.where(shown.uniform("apart") < self.apart, low, high)

    def _velocity(self, student: Denoiser, x: Tensor, t: Tensor, shown: Shown) -> Tensor:
        if shown.teacher is not None:
            return shown.teacher.velocity(x, t, shown.cond)
        da, ds = student.path.rates(t)
        return like(da, x) * shown.x0 + like(ds, x) * shown.n


def derivative(student: Denoiser, x: Tensor, t: Tensor, v: Tensor, cond: Cond | None) -> tuple[Tensor, Tensor]:
    """f and df/dt of eq. (1), each (B, ...)."""
    inside, student.autocast = student.autocast, None  # which casts a value and not its derivative
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():  # quick attention has no forward derivative
            return forward_ad.unpack_dual(student(_dual(x, v), _dual(t, torch.ones_like(t)), cond))
    finally:
        student.autocast = inside


def _dual(v: Tensor, rate: Tensor) -> Tensor:
    with warnings.catch_warnings():  # what PyTorch loads for the first of these speaks of its own past
        warnings.simplefilter("ignore", DeprecationWarning)
        made: Tensor = forward_ad.make_dual(v, rate)
    return made


def gradient(student: Denoiser, x: Tensor, f: Tensor, moved: Tensor, v: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """g of eq. (2), from f, df/dt and v, each (B, ...)."""
    path = student.path

    with forward_ad.dual_level():
        (k, dk), (j, dj) = map(forward_ad.unpack_dual, weights(path, _dual(t, torch.ones_like(t)), s))
    slope = like(dk, x) * x + like(k, x) * v + like(dj, x) * f + like(j, x) * moved
    here = t == s
    rate = torch.where(here, dj, j / torch.where(here, 1.0, t - s)) * student.solution(t)[1]
    return slope / like(rate, x)


def slant(student: Denoiser, t: Tensor) -> Tensor:
    """What makes g the tangent of sCM (arXiv:2410.11081, eq. 6), |c| cos(a) / (t a'), where tan a = sigma / (alpha sigma_data)."""

    def angle(t: Tensor) -> Tensor:
        alpha, sigma = student.path(t)
        return torch.atan2(sigma, alpha * (student.sigma_data or 1.0))

    with forward_ad.dual_level():
        a, rate = forward_ad.unpack_dual(angle(_dual(t, torch.ones_like(t))))
    return student.solution(t)[1].abs() * a.cos() / (t * rate)


def _length(g: Tensor) -> Tensor:
    size = g.flatten(1).square().mean(1).sqrt()
    return size.reshape(-1, *[1] * (g.ndim - 1))


def _law(times: str) -> TimeLaw:
    law: TimeLaw = rebuild(parse(times), TIMES, "times")
    return law


@remembers
def scm(times: str = "log_normal(mean=-0.8, deviation=1.6)", warm: float = 0.2) -> Tangent:
    """Consistency in continuous time, trained or from a teacher (arXiv:2410.11081, algorithm 1)."""
    if not 0 <= warm <= 1:
        raise UserError(f"scm: warm is {warm}; it is a share of the run, 0 to 1")
    return Tangent(_law(times), ends=True, angle=True, warm=warm, power=0.0)


@remembers
def meanflow(times: str = "logit_normal(mean=-0.4)", apart: float = 0.25, power: float = 1.0) -> Tangent:
    """MeanFlow (arXiv:2505.13447); a share `apart` of the samples aims at s < t, and the rest is plain denoising."""
    _share("meanflow", apart)
    return Tangent(_law(times), apart=apart, power=power)


@remembers
def improved_meanflow(times: str = "logit_normal(mean=-0.4)", apart: float = 0.5, power: float = 1.0) -> Tangent:
    """Improved MeanFlow (arXiv:2512.02012)."""
    _share("improved_meanflow", apart)
    return Tangent(_law(times), apart=apart, own=True, power=power)


def _share(name: str, apart: float) -> None:
    if not 0 <= apart <= 1:
        raise UserError(f"{name}: apart is {apart}; it is a share of the samples, 0 to 1")
