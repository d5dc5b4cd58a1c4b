"""Two LoRAs in one, column by column: a subject and a style that do not spoil each other (ZipLoRA, Shah et al., arXiv:2311.13600).

    W' = W + D_1 diag(m_1) + D_2 diag(m_2),   m at first 1: their sum                                               (1)
    L  = sum over k of |F(x_k; both) - F(x_k; k alone)|^2  +  overlap * mean over layers of |cos(m_1, m_2)|         (2)

with F the net's output, and x_k noised pictures of what k alone draws of its own prompt. Nothing but the m learns.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.denoiser import Cond, Denoiser
from reverie.nets.lora import CONVOLUTIONS, weight
from reverie.train.loop import Key
from reverie.train.objective import TimeLaw, draw_times


class Zip(nn.Module):
    """Eq. (1) beside a layer. changes: D_1 and D_2, in the shape of W; None = nothing. alone: which is in place; None = both."""

    def __init__(self, layer: nn.Module, changes: Sequence[Tensor | None]) -> None:
        super().__init__()
        own = weight(layer)
        for k, change in enumerate(changes):
            made = torch.zeros_like(own) if change is None else change.to(own).view_as(own)
            self.register_buffer(f"d{k}", made, persistent=False)
        self.shares = nn.Parameter(torch.ones(len(changes), own.shape[1]))
        self.both = all(change is not None for change in changes)
        self.alone: int | None = None

    def change(self, k: int) -> Tensor:
        """D_k diag(m_k)."""
        made: Tensor = getattr(self, f"d{k}")
        return made * self.shares[k].view(-1, *[1] * (made.ndim - 2))

    def forward(self, layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        own: Tensor = getattr(self, f"d{self.alone}") if self.alone is not None else self.change(0) + self.change(1)
        own = own.to(y.dtype)
        out: Tensor = layer._conv_forward(x, own, None) if isinstance(layer, CONVOLUTIONS) else F.linear(x, own)
        return y + out

    def overlap(self) -> Tensor:
        """|cos(m_1, m_2)|."""
        return F.cosine_similarity(self.shares[0], self.shares[1], dim=0).abs()


@contextmanager
def alone(zips: Sequence[Zip], which: int) -> Iterator[None]:
    """Inside, one of the two stands in place as it was trained."""
    for each in zips:
        each.alone = which
    try:
        yield
    finally:
        for each in zips:
            each.alone = None


class Alone:
    """A denoiser with one of the two."""

    def __init__(self, model: Denoiser, zips: Sequence[Zip], which: int) -> None:
        self.model, self.zips, self.which, self.path = model, zips, which, model.path

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond | None = None) -> Tensor:
        with alone(self.zips, self.which):
            return self.model(x, t, cond)


class Zipping:
    """Teaches the shares, by eq. (2). stores: of each of the two, pictures that it draws alone, and what is said of them."""

    def __init__(
        self, model: Denoiser, zips: Sequence[Zip], stores: Sequence[Any], *, times: TimeLaw, cond: Any, overlap: float
    ) -> None:
        self.module = nn.ModuleList(zips)
        self.model, self.zips, self.stores, self.times, self.cond, self.weight = model, zips, stores, times, cond, overlap
        self.size = sum(len(store) for store in stores)
        self.slow = 0

    def loss(self, index: np.ndarray, key: Key) -> Tensor:
        shared = torch.stack([each.overlap() for each in self.zips if each.both]).mean() if any(z.both for z in self.zips) else 0.0
        first, found = 0, []
        for which, store in enumerate(self.stores):
            rows = index[(index >= first) & (index < first + len(store))] - first
            first += len(store)
            if len(rows):
                found.append(
                    self.gap(which, rows, draw_times(self.times, self.model.path, len(rows), key.torch(f"time {which}")), key)
                )
        return torch.cat(found) + self.weight * shared

    def gap(self, which: int, rows: np.ndarray, t: Tensor, key: Key) -> Tensor:
        """The square distance per sample of what both say to what one says, at fresh noise."""
        x0, _, said = self.stores[which](rows)
        n = torch.randn(x0.shape, generator=key.torch(f"noise {which}"))
        x, cond = self.model.path.mix(x0, n, t), self.cond(said)
        with torch.no_grad(), alone(self.zips, which):
            target = self.model.halves(x, t, cond)[0]
        return (self.model.halves(x, t, cond)[0] - target).square().flatten(1).mean(1)

    @torch.no_grad()
    def validate(self) -> float:
        """The mean of the gaps, of all pictures at fixed noise and times."""
        found = []
        for which, store in enumerate(self.stores):
            t = self.times(self.model.path, (torch.arange(len(store), dtype=torch.float64) + 0.5) / len(store))
            found.append(self.gap(which, np.arange(len(store)), t, Key(0, 0)))
        return float(torch.cat(found).mean())
