"""Looking into any net while it computes, and changing what is seen: one interface for every backbone.

Each attention of a net goes by way of `attended`, which says where it is (a `Site`) and lets those look in that `looking` has
named: a `Look` gets the queries, keys and values, and the attention it may ask for its answer; it gives another. Each transformer
block (of a U-Net: each attention after a residual block) asks `passed` whether it is left out. Sites and layers are counted from 0
in the order of one evaluation, which `Denoiser.raw` begins.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal["self", "cross", "joint"]
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""(q (B, heads, L, E), k, v (B, heads, M, E), mask broadcasting to (B, heads, L, M)) -> (B, heads, L, E)."""


@dataclass(frozen=True)
class Site:
    """Where an attention is. kind: of the picture to itself, to tokens, or of both to both. text: in a joint one, how many of the
    first rows are tokens. softmax: whether it has a table of weights, which linear attention has not."""

    index: int
    kind: Kind
    text: int = 0
    softmax: bool = True


Look = Callable[[Site, Attend, Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""(site, what would answer, q, k, v, mask) -> the answer."""


@dataclass
class _Eyes:
    looks: tuple[Look, ...]
    skips: frozenset[int]
    sites: int = field(default=0)
    layers: int = field(default=0)


_EYES: ContextVar[_Eyes | None] = ContextVar("eyes", default=None)


@contextmanager
def looking(*looks: Look, skips: Sequence[int] = ()) -> "Iterator[_Eyes]":
    """Nets called within are looked into; the last look is asked first. skips: layers that are left out.

    What is given says how many sites and layers the last evaluation had, where none looked in further within.
    """
    outer = _EYES.get()
    before = () if outer is None else outer.looks
    eyes = _Eyes((*before, *looks), frozenset(skips) | (outer.skips if outer else frozenset()))
    told = _EYES.set(eyes)
    try:
        yield eyes
    finally:
        _EYES.reset(told)


@contextmanager
def unseen() -> Iterator[None]:
    """Nets called within are not looked into: those that stand beside the one that is meant."""
    told = _EYES.set(None)
    try:
        yield
    finally:
        _EYES.reset(told)


def begin() -> None:
    """An evaluation begins: sites and layers are counted from 0."""
    if not torch.compiler.is_compiling() and (eyes := _EYES.get()) is not None:
        eyes.sites = eyes.layers = 0


def passed() -> bool:
    """Whether the next layer is left out; each layer asks once."""
    if torch.compiler.is_compiling() or (eyes := _EYES.get()) is None:
        return False
    eyes.layers += 1
    return eyes.layers - 1 in eyes.skips


def attended(
    attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, kind: Kind, text: int = 0, softmax: bool = True
) -> Tensor:
    """What `attend` answers, or those who look in."""
    if torch.compiler.is_compiling() or (eyes := _EYES.get()) is None:
        return attend(q, k, v, mask)
    site = Site(eyes.sites, kind, text, softmax)
    eyes.sites += 1
    for look in eyes.looks:
        attend = _seen(look, site, attend)
    return attend(q, k, v, mask)


def _seen(look: Look, site: Site, attend: Attend) -> Attend:
    return lambda q, k, v, mask: look(site, attend, q, k, v, mask)


def weights(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """The table (B, heads, L, M) of an attention with a softmax, in float32: each row adds up to 1."""
    table = (q.float() * q.shape[-1] ** -0.5) @ k.float().transpose(-1, -2)
    if mask is not None:
        table = table.masked_fill(~mask, torch.finfo(table.dtype).min)
    return table.softmax(-1)


def layered(blocks: Iterable[Any], residuals: Sequence[Tensor] | None, first: int = 0) -> Iterator[tuple[Any, Tensor | None]]:
    """A transformer's blocks but those that are left out, each with what is added after it: `residuals` counts from 0, these from
    `first`."""
    for i, block in enumerate(blocks, first):
        if not passed():
            yield block, residuals[i] if residuals is not None and i < len(residuals) else None


def last(states: Iterable[Tensor]) -> Tensor:
    """What a walk through blocks ends with; nothing before it is kept."""
    return deque(states, maxlen=1)[0]


def added(h: Tensor, more: Tensor | None, text: int = 0) -> Tensor:
    """h (B, text + L, D) with `more` (B, L, D) added to the rows that are not text."""
    if more is None:
        return h
    return h + (F.pad(more, (0, 0, text, 0)) if text else more).to(h.dtype)


def check_residuals(residuals: Sequence[Tensor] | None, blocks: int, rows: int, width: int) -> None:
    """ValueError unless there is at most one (B, rows, width) per block."""
    if residuals is None:
        return
    if len(residuals) > blocks:
        raise ValueError(f"residuals: expected at most {blocks}, one per block, got {len(residuals)}")
    for i, r in enumerate(residuals):
        if r.ndim != 3 or r.shape[1:] != (rows, width):
            raise ValueError(f"residuals[{i}]: expected shape (any, {rows}, {width}), got {tuple(r.shape)}")
