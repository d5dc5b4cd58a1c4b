"""One Brownian path per sample, whatever the grid: a finer grid refines the same picture.

The noise of a step from t to s is (W_t - W_s) / sqrt(t - s). W on [0, 1] is Levy's construction: the middle of an interval is the
mean of its ends and a normal draw, keyed by its place in the tree, of deviation half the root of the interval's length.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reverie.process.path import time
from reverie.rng import Rng

DEPTH = 16
"""Halvings; below 2^-16 of the time the path is straight."""


@dataclass(frozen=True)
class Brownian:
    """Takes the place of an `Rng` wherever steps are taken: `trace(..., rng=Brownian(Rng.of(seed)))`."""

    rng: Rng
    ends: tuple[Tensor, Tensor] | None = None

    def step(self, index: int, t: Tensor, s: Tensor) -> "Brownian":
        """For the noise of the step from t to s, () or (B,)."""
        return replace(self, ends=(time(t), time(s)))

    def fold(self, purpose: str, step: int = 0) -> "Brownian":
        """Another path, of another purpose."""
        return replace(self, rng=self.rng.fold(purpose, step))

    def take(self, rows: Sequence[int]) -> "Brownian":
        """The paths of some samples."""
        return replace(self, rng=self.rng.take(rows))

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return self.rng.uniform(shape)

    def chi2(self, dimensions: float, shape: Sequence[int]) -> Tensor:
        return self.rng.chi2(dimensions, shape)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """(B, ...) standard normal; outside a step, that of the stream."""
        if self.ends is None:
            return self.rng.normal(shape)
        t, s = (end.expand(shape[0]).tolist() for end in self.ends)
        rows = []
        for k in range(shape[0]):
            own, length = self.rng.take([k]), t[k] - s[k]
            size = (1, *shape[1:])
            whole = own.fold("tree").normal(size).double()
            gap = self._at(own, t[k], whole) - self._at(own, s[k], whole)
            rows.append(gap / length**0.5 if length > 0 else whole)
        return torch.cat(rows).to(self.rng.dtype)

    def _at(self, own: Rng, t: float, whole: Tensor) -> Tensor:
        """W_t, by walking down from [0, 1], where W_0 = 0 and W_1 = whole."""
        low, high, start, width, place = torch.zeros_like(whole), whole, 0.0, 1.0, 1
        for _ in range(DEPTH):
            if t in (start, start + width):
                break
            middle = (low + high) / 2 + own.fold("tree", place).normal(whole.shape).double() * width**0.5 / 2
            width /= 2
            right = t >= start + width
            low, high = (middle, high) if right else (low, middle)
            start, place = start + width * right, 2 * place + right
        return low + (high - low) * ((t - start) / width)
