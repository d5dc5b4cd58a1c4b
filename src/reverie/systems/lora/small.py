"""Changes made small: the nearest ones of low rank, which the singular values give (Eckart and Young, 1936).

    D = U S V^T,   D_r = (U_r sqrt(S_r)) (sqrt(S_r) V_r^T),   |D_r|^2 / |D|^2 = sum_{i<=r} s_i^2 / sum_i s_i^2       (1)

The share of its square that D_r keeps is said. A low-rank D is never made whole: with Q_u R_u of its up and Q_d R_d of its down,
the singular values are those of R_u R_d^T.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from reverie.errors import UserError
from reverie.nets.stack import Stack
from reverie.systems.lora.pieces import Piece
from reverie.systems.lora.places import weights
from reverie.systems.lora.recut import Learnt
from reverie.systems.lora.written import Read, read
from reverie.systems.system import System

LEAST = 1e-7
"""Of the weight's norm; a smaller difference is rounding."""


@dataclass(frozen=True)
class Kept:
    """Changes of a rank, and what they keep. shares: of the square of each, by our names; share: of all."""

    found: Read
    shares: Mapping[str, float]
    share: float


@torch.no_grad()
def resized(path: Path, system: System, rank: int) -> Kept:
    """The changes of a file, each by the nearest of this rank. Differences of biases and norms stay as they are."""
    _check(rank)
    own, found = weights(system), read(path, system)
    layers, shares, sizes = [], {}, {}
    for each in found.layers:
        if own[each.stack.keys[0]].ndim < 2:
            layers.append(each)
            continue
        made, kept, size = _nearest(each, own, rank)
        layers.append(made)
        shares[each.stack.keys[0]], sizes[each.stack.keys[0]] = kept / size if size else 1.0, size
    return _kept(Read(path=path, layers=layers, metadata=found.metadata), shares, sizes)


@torch.no_grad()
def extracted(changed: System, base: System, rank: int, path: Path) -> Kept:
    """What makes one model of another of its shape: of each matrix by the nearest of this rank, of biases and norms whole.

    path: that of the changed one, for messages.
    """
    _check(rank)
    own, other = weights(base), weights(changed)
    if unlike := [k for k in own.keys() | other.keys() if k not in own or k not in other or own[k].shape != other[k].shape]:
        raise UserError(f"{path} is no change of {base.name}: {sorted(unlike)[0]} is of another shape, or in one of them alone")
    layers, shares, sizes = [], {}, {}
    for key, difference in _differences(own, other):
        if difference.ndim < 2:
            layers.append(Learnt(Stack((key,)), {"diff": difference}))
            continue
        made, kept, size = _nearest(Learnt(Stack((key,)), {"diff": difference}), own, rank)
        layers.append(made)
        shares[key], sizes[key] = kept / size, size
    if not layers:
        raise UserError(f"{path} and {base.name} have the same weights: there is nothing to extract")
    return _kept(Read(path=path, layers=layers), shares, sizes)


def _differences(own: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for key, value in own.items():
        difference = other[key].float().cpu() - value.float().cpu()
        if float(difference.norm()) > LEAST * float(value.float().norm()):
            yield key, difference


def _check(rank: int) -> None:
    if rank < 1:
        raise UserError(f"the rank of a LoRA is {rank}; it is 1 or more")


def _kept(found: Read, shares: Mapping[str, float], sizes: Mapping[str, float]) -> Kept:
    total = sum(sizes.values())
    return Kept(found, shares, sum(shares[key] * sizes[key] for key in sizes) / total if total else 1.0)


def _nearest(each: Learnt, own: Mapping[str, Tensor], rank: int) -> tuple[Learnt, float, float]:
    """The change of this rank, the square of its norm, and that of the change."""
    whole = each.stack.together(own)
    if "core" in each.parts or "length" in each.parts or "up" not in each.parts:
        change = Piece(dict(each.parts)).change(each.stack.keys[0], each.scale)
        if change is None:
            raise UserError(f"{each.stack.keys[0]} has no change that could be made small")
        left, values, right = torch.linalg.svd(change(whole).reshape(len(whole), -1), full_matrices=False)
    else:
        left, values, right = _products(each.parts["up"].float().flatten(1), each.scale * each.parts["down"].float().flatten(1))
    squares = values.double().square()
    n = min(rank, len(values))
    root = values[:n].sqrt()
    down = (root[:, None] * right[:n]).reshape(n, *whole.shape[1:])
    up = (left[:, :n] * root).reshape(len(whole), n, *[1] * (whole.ndim - 2))
    return Learnt(each.stack, {"up": up, "down": down}), float(squares[:n].sum()), float(squares.sum())


def _products(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular vectors and values of up down, by way of their small factors."""
    (one, first), (other, second) = torch.linalg.qr(up), torch.linalg.qr(down.T)
    left, values, right = torch.linalg.svd(first @ second.T, full_matrices=False)
    return one @ left, values, right @ other.T
