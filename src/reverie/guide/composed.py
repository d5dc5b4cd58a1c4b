"""Several conditions for one picture: the clean estimate is a sum of theirs.

With shares a_v, and the estimates c_v of the parts v of a condition,

    x_0 = sum_v a_v m_v c_v,                                                                                          (1)

where m_v is 1, or a picture of weights (MultiDiffusion, Bar-Tal et al., arXiv:2302.08113). Conjunction (Liu et al.,
arXiv:2206.01714, eq. 11) moves away from an unconditional estimate u by several differences,

    c = u + sum_i w_i (c_i - u),                                                                                      (2)

which is equation (1) with the share 1 - sum_i w_i for u; classifier-free guidance around it, u + w (c - u), scales all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.denoiser import Cond, Model
from reverie.process.path import Path, time


@dataclass(frozen=True)
class Composed:
    """Equation (1) in one batch, without what has no share; a condition without parts is handed to the model as it is."""

    model: Model

    @property
    def path(self) -> Path:
        return self.model.path

    def __call__(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        if cond is None or cond.parts is None:
            return self.model(x, t, cond)
        rows, share, told = _told(cond)
        made = self.model(x[rows], time(t).expand(len(x))[rows], told)
        return _summed(made, rows, share, len(x))

    def with_variance(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> tuple[Tensor, Tensor]:
        """The mean of equation (1); variances are averaged, by shares that are not negative."""
        model: Any = self.model
        if cond is None or cond.parts is None:
            mean, variance = model.with_variance(x, t, cond)
            return mean, variance
        rows, share, told = _told(cond)
        mean, variance = model.with_variance(x[rows], time(t).expand(len(x))[rows], told)

        def positive(size: tuple[int, ...]) -> Tensor:
            return share(size).clamp(min=0)

        one = _summed(torch.ones_like(variance), rows, positive, len(x))
        return _summed(mean, rows, share, len(x)), _summed(variance, rows, positive, len(x)) / one


Share = Callable[[tuple[int, ...]], Tensor]


def _told(cond: Cond) -> tuple[Tensor, Share, Cond]:
    """Of all pairs of a sample and a part that it hears: the sample, the weight for estimates of a shape, and the condition."""
    assert cond.parts is not None and cond.shares is not None
    if cond.shares.shape[1] != 1:
        raise ValueError("shares of several steps: Scheduled, around this, knows which step it is")
    shares = cond.shares[:, 0]  # (B, V)
    heard = shares != 0 if cond.places is None else (shares != 0) & cond.places.flatten(2).any(2)
    common = replace(cond, vector=None, tokens=None, mask=None, parts=None, shares=None, places=None)
    rows, told, weights, places = [], [], [], []
    for v, part in enumerate(cond.parts):
        own = heard[:, v].nonzero()[:, 0]
        if len(own):
            rows.append(own)
            weights.append(shares[own, v])
            places += [] if cond.places is None else [cond.places[own, v]]
            told.append(replace(common[own], vector=_of(part.vector, own), tokens=_of(part.tokens, own), mask=_of(part.mask, own)))
    weight, place = torch.cat(weights), torch.cat(places) if places else None

    def share(shape: tuple[int, ...]) -> Tensor:
        out = weight.reshape(-1, *[1] * (len(shape) - 1))
        return out if place is None else out * _resized(place.double(), shape)

    return torch.cat(rows), share, Cond.cat(told)


def _of(room: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if room is None else room[rows]


def _resized(place: Tensor, shape: tuple[int, ...]) -> Tensor:
    """place (N, H, W) as (N, 1, ..., h, w), each entry the mean of what it covers."""
    small = F.interpolate(place[:, None], tuple(shape[-2:]), mode="area") if place.shape[1:] != shape[-2:] else place[:, None]
    return small.reshape(len(place), *[1] * (len(shape) - 3), *shape[-2:])


def _summed(made: Tensor, rows: Tensor, share: Share, count: int) -> Tensor:
    out = made.new_zeros(count, *made.shape[1:])
    return out.index_add(0, rows.to(made.device), made * share(tuple(made.shape)).to(made))
