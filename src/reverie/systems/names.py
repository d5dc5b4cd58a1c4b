"""What other codebases call our weights.

A layout is a function from our key to theirs. Being one name for each of ours, it is turned around by asking it for all keys of a
net, and whatever is then missing, left over or of another shape is named before a single weight is applied. Where they cut their
weights otherwise, it says so: `name[1]` is the second of several of ours that they stack, row under row, as one tensor `name`;
`name[1/4]` is that, too, but they stack a quarter of each of ours, then the next quarter of each, four times over (the queries,
keys and values of one head after the other); a tuple of names is one of ours of which they keep copies.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reverie.errors import UserError
from reverie.nets.stack import Stack

Layout = Callable[[str], str | tuple[str, ...]]
LOG = logging.getLogger("reverie")
SHOWN = 4
"""Names that an error lists of each kind."""
PIECE = re.compile(r"(.+)\[(\d+)(?:/(\d+))?\]")


def renamed(rules: Sequence[tuple[str, str]]) -> Callable[[str], str]:
    """A layout by regular expressions, taken one after the other."""
    compiled = [(re.compile(pattern), name) for pattern, name in rules]

    def theirs(key: str) -> str:
        for pattern, name in compiled:
            key = pattern.sub(name, key)
        return key

    return theirs


@dataclass(frozen=True)
class Report:
    """How many of a net's tensors a file gives, and by their names what it lacks, has too many, or has otherwise."""

    what: str
    total: int
    missing: list[str]
    unknown: list[str]
    misshapen: list[str]
    unlike: list[str]

    @property
    def whole(self) -> bool:
        return not (self.missing or self.unknown or self.misshapen or self.unlike)

    def __str__(self) -> str:
        applied = self.total - len(self.missing) - len(self.misshapen) - len(self.unlike)
        kinds = (
            ("missing", self.missing),
            ("unknown", self.unknown),
            ("of another shape", self.misshapen),
            ("unlike their other copies", self.unlike),
        )
        parts = [f"{kind}: {_some(names)}" for kind, names in kinds if names]
        return f"{self.what}: {'; '.join([f'{applied} of {self.total} tensors applied', *parts])}"


def given(net: nn.Module, tensors: Mapping[str, Tensor], layout: Layout, what: str, partial: bool = False) -> dict[str, Tensor]:
    """Their tensors by our keys, in our shapes. UserError where one is missing, too many, or does not fit, unless `partial`.

    A product of pixels may be stored as a convolution of one place, and the other way round: (out, in), (out, in, 1) and
    (out, in, 1, 1) are the same.
    """
    own = net.state_dict()
    asked = stacks(own, layout, what)
    missing, left = sorted(asked.keys() - tensors.keys()), sorted(tensors.keys() - asked.keys())
    wrong = [n for n, stack in asked.items() if n in tensors and _squeezed(tensors[n].shape) != _stacked(own, stack.keys)]
    report = Report(what, len(asked), missing, left, wrong, [n for n in _copies(own, layout, tensors) if n not in wrong])
    if not report.whole and not partial:
        raise UserError(f"{report}; the file is damaged or of another model (what fits can be had with --partial)")
    LOG.log(logging.INFO if report.whole else logging.WARNING, "%s", report)
    found: dict[str, Tensor] = {}
    for name in (n for n in asked if n in tensors and n not in wrong):
        pieces = zip(asked[name].keys, asked[name].apart(tensors[name], own), strict=True)
        found |= {k: piece.reshape(own[k].shape).data for k, piece in pieces if k not in found}  # no view that keeps its whole
    return {key: found[key] for key in own if key in found}


def filled(net: nn.Module, tensors: Mapping[str, Tensor], layout: Layout, what: str, partial: bool = False) -> Any:
    """Their weights in our net, which was built without any, as they lie in the file.

    partial: what the file lacks is zero, which in most nets is a block that does nothing.
    """
    ours = given(net, tensors, layout, what, partial)
    for key, value in ours.items():
        if not value.is_floating_point():
            raise UserError(f"{what}: {layout(key)} holds {value.dtype} and no numbers with fractions: get it again")
    lacking = {key: torch.zeros(value.shape) for key, value in net.state_dict().items() if key not in ours}
    net.load_state_dict(lacking | ours, assign=True)
    return net.eval().requires_grad_(False)


def taken(net: nn.Module, layout: Layout, pointwise: Callable[[str], bool] = lambda name: False) -> dict[str, Tensor]:
    """Our weights by their names; those for which `pointwise` says so as convolutions of 1x1."""
    own, out = net.state_dict(), {}
    for name, stack in stacks(own, layout, "our weights").items():
        value = stack.together(own)
        out[name] = (value[..., None, None] if pointwise(name) and value.ndim == 2 else value).contiguous()
    return out


def stacks(own: Mapping[str, Tensor], layout: Layout, what: str) -> dict[str, Stack]:
    """{their name: our keys, in the order in which they are stacked}."""
    found: dict[str, dict[int, str]] = {}
    rounds: dict[str, int] = {}
    for key in own:
        for place in _places(layout, key):
            piece = PIECE.fullmatch(place)
            name, number = (piece[1], int(piece[2])) if piece else (place, 0)
            rounds[name] = int(piece[3] or 1) if piece else 1
            if found.setdefault(name, {}).setdefault(number, key) != key:
                raise ValueError(f"{what}: two of our weights would have one name, {place}")
    for name, pieces in found.items():
        if sorted(pieces) != list(range(len(pieces))):
            raise ValueError(f"{what}: of {name} we would fill only the pieces {sorted(pieces)}")
    return {name: Stack([pieces[i] for i in range(len(pieces))], rounds[name]) for name, pieces in found.items()}


def _places(layout: Layout, key: str) -> tuple[str, ...]:
    said = layout(key)
    return (said,) if isinstance(said, str) else said


def _copies(own: Mapping[str, Tensor], layout: Layout, tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of copies that differ from the first of them; what has no numbers yet (on `meta`) is not looked at."""
    out = []
    for key in own:
        found = [place for place in _places(layout, key) if place in tensors]
        out += [n for n in found[1:] if not tensors[n].is_meta and not torch.equal(tensors[n], tensors[found[0]])]
    return out


def _stacked(own: Mapping[str, Tensor], keys: Sequence[str]) -> tuple[int, ...]:
    """The shape of our weights stacked by rows, a convolution of one place taken as the matrix it is."""
    first = _squeezed(own[keys[0]].shape)
    return first if len(keys) == 1 else (sum(len(own[k]) for k in keys), *first[1:])


def _squeezed(shape: torch.Size) -> tuple[int, ...]:
    return tuple(shape[:2]) if len(shape) > 2 and all(n == 1 for n in shape[2:]) else tuple(shape)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
