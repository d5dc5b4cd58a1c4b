"""What may be learnt of a weight W (out, in, ...) apart from it: D, with which it becomes W + w D.

    LoRA     (alpha / r) B A                                             Hu et al., arXiv:2106.09685
    LoHa     (alpha / r) (B_1 A_1) * (B_2 A_2)                           Yeh et al., arXiv:2309.14859
    LoKr     (alpha / r) C (x) (B A)                                     the same; Kronecker's product
    DoRA     m (W + D) / |W + D| - W                                     Liu et al., arXiv:2402.09353, eq. 5
    whole    a difference of weights itself                                                                        (1)

Of a convolution A holds its places, or a core T between does (Tucker): T has (r, r, ...), and A and B one place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Change(Protocol):
    """D of one weight, and its shape."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __call__(self, weight: Tensor) -> Tensor:
        """D (out, in, ...), in float32, of the weight as it is alone."""
        ...


def product(up: Tensor, down: Tensor, core: Tensor | None = None) -> Tensor:
    """B A (out, in, ...): up (out, r, ...), down (r, in, ...), core (r, r, ...)."""
    up, down = up.float(), down.float()
    if core is not None:
        down = torch.einsum("ij...,jn->in...", core.float(), down.flatten(1))
    return (up.flatten(1) @ down.flatten(1)).reshape(len(up), *down.shape[1:])


def _shape(up: Tensor, down: Tensor, core: Tensor | None) -> tuple[int, ...]:
    return (len(up), down.shape[1], *(down if core is None else core).shape[2:])


@dataclass(frozen=True)
class LowRank:
    """LoRA: up (out, r, ...), down (r, in, ...), core (r, r, ...)."""

    up: Tensor
    down: Tensor
    scale: float = 1.0
    core: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return _shape(self.up, self.down, self.core)

    def __call__(self, weight: Tensor) -> Tensor:
        return self.scale * product(self.up, self.down, self.core)


@dataclass(frozen=True)
class Hadamard:
    """LoHa: two products, entry by entry; a core stands between rows (r, out) and columns (r, in), as LyCORIS keeps them."""

    first: tuple[Tensor, Tensor]
    second: tuple[Tensor, Tensor]
    scale: float = 1.0
    cores: tuple[Tensor, Tensor] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        (up, down), cores = self.first, self.cores
        return (len(up), down.shape[1]) if cores is None else (up.shape[1], down.shape[1], *cores[0].shape[2:])

    def __call__(self, weight: Tensor) -> Tensor:
        if self.cores is None:
            one, two = product(*self.first), product(*self.second)
        else:
            one, two = (tucker(core, *pair) for core, pair in zip(self.cores, (self.first, self.second), strict=True))
        return self.scale * one * two


@dataclass(frozen=True)
class Kronecker:
    """LoKr: C (a, b) times each entry of a block (out / a, in / b, ...)."""

    coarse: Tensor
    fine: Tensor
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        (a, b), (c, d, *rest) = self.coarse.shape, self.fine.shape
        return (a * c, b * d, *rest)

    def __call__(self, weight: Tensor) -> Tensor:
        coarse = self.coarse.float().reshape(*self.coarse.shape, *[1] * (self.fine.ndim - 2))
        return self.scale * torch.kron(coarse, self.fine.float().contiguous())


@dataclass(frozen=True)
class Whole:
    """A difference that was kept as it is."""

    difference: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.difference.shape)

    def __call__(self, weight: Tensor) -> Tensor:
        return self.difference.float()


@dataclass(frozen=True)
class Dora:
    """DoRA around another: m is the length of each row, (out, ...), or of each column, (1, in, ...), of what it becomes."""

    inner: Change
    length: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inner.shape

    def __call__(self, weight: Tensor) -> Tensor:
        changed = weight.float() + self.inner(weight).to(weight.device).reshape(weight.shape)
        rows = len(self.length) == len(weight)  # else (1, in, ...)
        axes = [k for k in range(weight.ndim) if k != (0 if rows else 1)]
        size = torch.linalg.vector_norm(changed, dim=axes, keepdim=True)
        length = self.length.float().to(weight.device).reshape(size.shape)
        return changed * (length / size) - weight.float()


def tucker(core: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """(out, in, ...) of a core (r, r, ...), rows (r, out) and columns (r, in)."""
    return torch.einsum("ij...,jn,im->mn...", core.float(), down.float(), up.float())


def kron_of(parts: Sequence[Tensor | None]) -> Tensor | None:
    """One factor of LoKr: kept whole, or as (a, b), or (a, b, core)."""
    whole, a, b, core = parts
    if whole is not None:
        return whole
    if a is None or b is None:
        return None
    return tucker(core, a, b) if core is not None else a.float() @ b.float()
