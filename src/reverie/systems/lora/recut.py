"""What was learnt of a tensor that stacks several weights, cut apart into what was learnt of each, and put together again: exactly.

Of rows R of up down that is up[R] down; and several such, of ranks r_k, are one of rank sum r_k,

    [up_1     ] [down_1]
    [     up_2] [down_2],                                                                                          (1)

or of rank r where all have one down, as those that were cut apart. The same holds for both products of LoHa; of LoKr whole blocks
of rows may be taken, and stacked where their blocks are one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reverie.adapt.changes import kron_of
from reverie.errors import UserError
from reverie.nets.stack import Stack
from reverie.systems.lora.pieces import Piece

ROWS, SHARED = {"up": ("up",), "hada_w1_a": ("hada_w1_a", "hada_w2_a")}, {"up": ("down",), "hada_w1_a": ("hada_w1_b", "hada_w2_b")}
"""Of a product, by the name of its first part: what holds the rows, and what they share."""
FINE = ("lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2", "lokr_w1_b")


@dataclass(frozen=True)
class Learnt:
    """What was learnt of a stack of our weights: tensors by what they are (`pieces`), alpha as the file has it, and alpha / r."""

    stack: Stack
    parts: Mapping[str, Tensor]
    scale: float = 1.0
    alpha: Tensor | None = None

    @property
    def rank(self) -> int | None:
        return Piece(dict(self.parts)).rank

    @property
    def blocks(self) -> bool:
        """Whether it is a LoKr."""
        return any(part.startswith("lokr") for part in self.parts)


def whole(learnt: Learnt) -> Learnt:
    """Without a core between up and down: down does what both did."""
    p = dict(learnt.parts)
    if (core := p.pop("core", None)) is not None:
        down = p["down"].float().flatten(1)
        p["down"] = torch.einsum("ij...,jn->in...", core.float(), down)
    return replace(learnt, parts=p)


def apart(learnt: Learnt, own: Mapping[str, Tensor], where: str) -> dict[str, Learnt]:
    """{one of our weights: what was learnt of it}. UserError where it cannot be cut so."""
    count = sum(len(own[key]) for key in learnt.stack.keys)
    order = learnt.stack.apart(torch.arange(count)[:, None], own)
    learnt = whole(learnt)
    made = {}
    for key, rows in zip(learnt.stack.keys, order, strict=True):
        made[key] = _trimmed(replace(learnt, stack=Stack([key]), parts=_taken(learnt.parts, rows[:, 0], count, where)))
    return made


def _trimmed(learnt: Learnt) -> Learnt:
    """Without what of a product is of other rows, as in (1): there, columns of the left factor are zero."""
    kind = next((k for k in ROWS if k in learnt.parts), None)
    if kind is None or "hada_t1" in learnt.parts:
        return learnt
    masks = [learnt.parts[name].reshape(*learnt.parts[name].shape[:2], -1).any(-1).any(0) for name in ROWS[kind]]
    keep = masks[0]
    if bool(keep.all()) or not bool(keep.any()) or not all(torch.equal(mask, keep) for mask in masks):
        return learnt
    parts = dict(learnt.parts)
    for rows, shared in zip(ROWS[kind], SHARED[kind], strict=True):
        parts |= {rows: parts[rows][:, keep], shared: parts[shared][keep]}
    return replace(learnt, parts=parts, alpha=None)


def _taken(p: Mapping[str, Tensor], rows: Tensor, count: int, where: str) -> dict[str, Tensor]:
    """The parts of some rows."""
    out = dict(p)
    if (length := p.get("length")) is not None:
        if len(length) != count:
            raise UserError(f"{where} has a length for each column of several weights at once, which none of them has alone")
        out["length"] = length[rows]
    if "diff" in p:
        return out | {"diff": p["diff"][rows]}
    for name in ("up", "hada_w1_a", "hada_w2_a"):
        if name in p:
            flat = "hada_t1" in p
            out[name] = p[name][:, rows] if flat else p[name][rows]
    if fine := _fine(p):
        first = "lokr_w1" if "lokr_w1" in p else "lokr_w1_a"
        blocks = rows.view(-1, fine) if len(rows) % fine == 0 else None
        if blocks is None or not torch.equal(blocks, blocks[:, :1] // fine * fine + torch.arange(fine)):
            raise UserError(f"{where} is a LoKr of blocks of {fine} rows, which do not part where the weights do")
        out[first] = p[first][blocks[:, 0] // fine]
    return out


def _fine(p: Mapping[str, Tensor]) -> int:
    """Rows of the block of a LoKr; 0 of what is none."""
    block = kron_of([p.get(k) for k in ("lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")])
    return 0 if block is None else len(block)


def together(found: Mapping[str, Learnt], stack: Stack, own: Mapping[str, Tensor], where: str) -> Learnt:
    """What was learnt of some of these weights as one. UserError where their kinds cannot be one."""
    have = [whole(found[key]) for key in stack.keys if key in found]
    kinds = {frozenset(part for part in each.parts if part != "length") for each in have}
    if len(kinds) > 1 or len({"length" in each.parts for each in have}) > 1:
        raise UserError(f"{where} is one tensor there, and what was learnt of its parts is of several kinds")
    sizes, sources = [len(own[key]) for key in stack.keys], iter(have)
    each = [next(sources) if key in found else None for key in stack.keys]
    parts, scale, alpha = _stacked(each, sizes, where)
    if "length" in have[0].parts:
        parts["length"] = torch.cat([_lengths(one, own[key], where) for one, key in zip(each, stack.keys, strict=True)])
    begins = dict(zip(stack.keys, torch.arange(sum(sizes)).split(sizes), strict=True))
    order = stack.together({key: rows[:, None] for key, rows in begins.items()})[:, 0]
    straight = torch.equal(order, torch.arange(len(order)))
    return Learnt(stack, parts if straight else _taken(parts, order, len(order), where), scale, alpha)


def _lengths(one: Learnt | None, weight: Tensor, where: str) -> Tensor:
    """The lengths of the rows, which of a weight of which nothing was learnt are its own."""
    if one is None:
        return weight.float().flatten(1).norm(dim=1)
    if len(length := one.parts["length"]) != len(weight):
        raise UserError(f"{where} is one tensor there, and lengths of columns of its parts are none of it")
    return length.flatten()


def _stacked(each: Sequence[Learnt | None], sizes: Sequence[int], where: str) -> tuple[dict[str, Tensor], float, Tensor | None]:
    """Row under row: the parts, alpha / r, and alpha where it stays."""
    have = [one for one in each if one is not None]
    first = have[0]
    if "diff" in first.parts:
        rest = first.parts["diff"].shape[1:]
        some = [torch.zeros(n, *rest) if one is None else one.parts["diff"] for one, n in zip(each, sizes, strict=True)]
        return {"diff": torch.cat(some)}, 1.0, None
    if first.blocks:
        return _stacked_blocks(each, where), first.scale, first.alpha
    if "hada_t1" in first.parts:
        raise UserError(f"{where} is one tensor there, and LoHas with cores cannot be one")
    kind = next(k for k in ROWS if k in first.parts)
    alike = all(one.scale == first.scale and _same(one, first, SHARED[kind]) for one in have)
    parts: dict[str, Tensor] = {}
    for rows, shared in zip(ROWS[kind], SHARED[kind], strict=True):
        if alike:
            like = first.parts[rows]
            empty = [torch.zeros(n, *like.shape[1:], dtype=like.dtype) for n in sizes]
            parts[rows] = torch.cat([e if one is None else one.parts[rows] for one, e in zip(each, empty, strict=True)])
            parts[shared] = first.parts[shared]
            continue
        parts[rows] = _diagonal(each, sizes, rows, first.scale if rows == ROWS[kind][0] else None)
        parts[shared] = torch.cat([one.parts[shared].float() for one in have])
    return parts, first.scale, first.alpha if alike else None


def _diagonal(each: Sequence[Learnt | None], sizes: Sequence[int], rows: str, scale: float | None) -> Tensor:
    """The left factor of (1); with a scale, those of other scales are multiplied by theirs over it."""
    ranks = [0 if one is None else one.parts[rows].shape[1] for one in each]
    tail = next(one.parts[rows].shape[2:] for one in each if one is not None)
    out = torch.zeros(sum(sizes), sum(ranks), *tail)
    row = column = 0
    for one, size, rank in zip(each, sizes, ranks, strict=True):
        if one is not None:
            factor = 1.0 if scale is None else one.scale / scale
            out[row : row + size, column : column + rank] = one.parts[rows].float() * factor
        row, column = row + size, column + rank
    return out


def _stacked_blocks(each: Sequence[Learnt | None], where: str) -> dict[str, Tensor]:
    """LoKrs of one block are one, of all their coarse rows."""
    have = [one for one in each if one is not None]
    first = have[0]
    shared = tuple(part for part in FINE if part in first.parts)
    if len(have) < len(each) or not all(one.scale == first.scale and _same(one, first, shared) for one in have):
        raise UserError(f"{where} is one tensor there, and LoKrs of several blocks cannot be one: --resize makes LoRAs of them")
    rows = "lokr_w1" if "lokr_w1" in first.parts else "lokr_w1_a"
    return {part: first.parts[part] for part in shared} | {rows: torch.cat([one.parts[rows] for one in have])}


def _same(one: Learnt, other: Learnt, parts: Sequence[str]) -> bool:
    return all(
        one.parts[part].shape == other.parts[part].shape and torch.equal(one.parts[part], other.parts[part]) for part in parts
    )
