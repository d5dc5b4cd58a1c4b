"""What other codebases call our weights.

A layout is a function from our key to theirs. Being one name for each of ours, it is turned around by asking it for all keys of a
net, and whatever is then missing, left over or of another shape is named before a single weight is applied. Where they cut their
weights otherwise, it says so: `name[1]` is the second of several of ours that they stack, row under row, as one tensor `name`; a
tuple of names is one of ours of which they keep copies.
"""

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from reverie.errors import UserError

Layout = Callable[[str], str | tuple[str, ...]]
SHOWN = 4
"""Names that an error lists of each kind."""
PIECE = re.compile(r"(.+)\[(\d+)\]")


def renamed(rules: Sequence[tuple[str, str]]) -> Callable[[str], str]:
    """A layout by regular expressions, taken one after the other."""
    compiled = [(re.compile(pattern), name) for pattern, name in rules]

    def theirs(key: str) -> str:
        for pattern, name in compiled:
            key = pattern.sub(name, key)
        return key

    return theirs


def given(net: nn.Module, tensors: Mapping[str, Tensor], layout: Layout, what: str) -> dict[str, Tensor]:
    """Their tensors by our keys, in our shapes. UserError where one is missing, too many, or does not fit.

    A product of pixels may be stored as a convolution of 1x1, and the other way round: (out, in) and (out, in, 1, 1) are the same.
    """
    own = net.state_dict()
    asked = _asked(own, layout, what)
    missing, left = sorted(asked.keys() - tensors.keys()), sorted(tensors.keys() - asked.keys())
    wrong = [n for n, keys in asked.items() if n in tensors and _squeezed(tensors[n].shape) != _stacked(own, keys)]
    differ = [n for n in _copies(own, layout, tensors) if n not in wrong]
    if missing or left or wrong or differ:
        fit = len(asked) - len(missing) - len(wrong) - len(differ)
        kinds = (("missing", missing), ("unknown", left), ("of another shape", wrong), ("unlike their other copies", differ))
        parts = [f"{kind}: {_some(names)}" for kind, names in kinds if names]
        raise UserError(f"{what}: {fit} of {len(asked)} weights fit; {'; '.join(parts)}")
    found: dict[str, Tensor] = {}
    for name, keys in asked.items():
        pieces = tensors[name].split([len(own[k]) for k in keys]) if len(keys) > 1 else [tensors[name]]
        found |= {k: piece.reshape(own[k].shape) for k, piece in zip(keys, pieces, strict=True) if k not in found}
    return {key: found[key] for key in own}


def taken(net: nn.Module, layout: Layout, pointwise: Callable[[str], bool] = lambda name: False) -> dict[str, Tensor]:
    """Our weights by their names; those for which `pointwise` says so as convolutions of 1x1."""
    own, out = net.state_dict(), {}
    for name, keys in _asked(own, layout, "our weights").items():
        value = torch.cat([own[k] for k in keys]) if len(keys) > 1 else own[keys[0]]
        out[name] = (value[..., None, None] if pointwise(name) and value.ndim == 2 else value).contiguous()
    return out


def _asked(own: Mapping[str, Tensor], layout: Layout, what: str) -> dict[str, list[str]]:
    """{their name: our keys, in the order in which they are stacked}."""
    found: dict[str, dict[int, str]] = {}
    for key in own:
        for place in _places(layout, key):
            piece = PIECE.fullmatch(place)
            name, number = (piece[1], int(piece[2])) if piece else (place, 0)
            if found.setdefault(name, {}).setdefault(number, key) != key:
                raise ValueError(f"{what}: two of our weights would have one name, {place}")
    for name, pieces in found.items():
        if sorted(pieces) != list(range(len(pieces))):
            raise ValueError(f"{what}: of {name} we would fill only the pieces {sorted(pieces)}")
    return {name: [pieces[i] for i in range(len(pieces))] for name, pieces in found.items()}


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
    """The shape of our weights stacked by rows, a 1x1 convolution taken as the matrix it is."""
    first = _squeezed(own[keys[0]].shape)
    return first if len(keys) == 1 else (sum(len(own[k]) for k in keys), *first[1:])


def _squeezed(shape: torch.Size) -> tuple[int, ...]:
    return tuple(shape[:2]) if len(shape) == 4 and shape[2:] == (1, 1) else tuple(shape)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
