"""Inductive moment matching (Zhou et al., arXiv:2503.07565): what is reached from t and from r < t has the same distribution.

For s < r < t the samples of a group, each with a jump of its own,

    y_i = X(x_t, t, s),   z_i = sg X(x_r, r, s),   x_r on the same way as x_t (DDIM's interpolant of x_t and its x_0)
    L = mean over i, j of k(y_i, y_j) + k(z_i, z_j) - 2 k(y_i, z_j),      k(a, b) = exp(-w |a - b| / sqrt(D))         (1)

which is the squared maximum mean discrepancy under a Laplace kernel; a group shares its times. With i = j, as published, y_i is
drawn towards the z_i of its own noise, as by a consistency model whose steps are coarse; left out, the known map is at rest.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from reverie.card import Card, parse, rebuild, remembers
from reverie.denoiser import Denoiser
from reverie.distill.shown import Shown, aimed, at_ratio, jump, ratio
from reverie.errors import UserError
from reverie.process.path import like
from reverie.train.objective import TIMES


@dataclass(frozen=True)
class Moments:
    """Equation (1); gap: log of sigma / alpha between t and r."""

    times: Any
    group: int
    gap: float
    width: float
    hears: tuple[str, ...] = ("target",)
    card: Card = field(default_factory=dict, compare=False)

    def __call__(self, student: Denoiser, shown: Shown) -> Tensor:
        path, size = student.path, min(self.group, len(shown.x0))
        if size < 2:
            raise UserError("moments: one sample is no group to compare: use a larger --batch")
        count = len(shown.x0) // size
        rows = count * size
        x0, n = shown.x0[:rows], shown.n[:rows]
        t = shown.times(self.times, path)[:count].repeat_interleave(size)
        r = at_ratio(path, ratio(path, t) * torch.exp(torch.tensor(-self.gap, dtype=torch.float64)))
        s = r * shown.uniform("aim")[:count].repeat_interleave(size)
        cond = None if shown.cond is None else shown.cond[:rows]
        x, told = path.mix(x0, n, t), aimed(cond, s)
        y = jump(path, x, student(x, t, told), t, s)
        with torch.no_grad():
            x_r = path.mix(x0, n, r)
            z = jump(path, x_r, student(x_r, r, told), r, s)
        scale = like((path(s)[0] ** 2 + path(s)[1] ** 2).sqrt(), y)
        loss = discrepancy((y / scale).unflatten(0, (count, -1)), (z / scale).unflatten(0, (count, -1)), self.width)
        out = loss.repeat_interleave(size)
        return torch.cat([out, out.new_zeros(len(shown.x0) - rows)])


def discrepancy(y: Tensor, z: Tensor, width: float) -> Tensor:
    """Eq. (1) of each of C groups, (C,), from points (C, M, ...), without i = j."""
    y, z = y.flatten(2), z.flatten(2)

    others = ~torch.eye(y.shape[1], dtype=torch.bool, device=y.device)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        far = ((a[:, :, None] - b[:, None]).square().mean(-1)[:, others] + 1e-12).sqrt()
        return (-width * far).exp().mean(1)

    return kernel(y, y) + kernel(z, z) - 2 * kernel(y, z)


@remembers
def moments(group: int = 4, gap: float = 0.3, width: float = 1.0, times: str = "log_normal(mean=-0.4, deviation=1.4)") -> Moments:
    """Inductive moment matching, from data alone."""
    if group < 2 or not gap > 0 or not width > 0:
        raise UserError(f"moments: group is {group}, gap {gap}, width {width}; group is 2 or more, gap and width above 0")
    return Moments(rebuild(parse(times), TIMES, "times"), group, gap, width)
