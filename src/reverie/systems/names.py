"""What other codebases call our weights.

A layout is a function from our key to theirs. Being one name for each of ours, it is turned around by asking it for all keys of a
net, and whatever is then missing, left over or of another shape is named before a single weight is applied.
"""

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from reverie.errors import UserError

Layout = Callable[[str], str]
SHOWN = 4
"""Names that an error lists of each kind."""


def renamed(rules: Sequence[tuple[str, str]]) -> Layout:
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
    asked = {layout(key): key for key in own}
    if len(asked) != len(own):
        raise ValueError(f"{what}: two of our weights would have one name")
    missing, left = sorted(asked.keys() - tensors.keys()), sorted(tensors.keys() - asked.keys())
    wrong = [n for n, key in asked.items() if n in tensors and _squeezed(tensors[n].shape) != _squeezed(own[key].shape)]
    if missing or left or wrong:
        fit = len(asked) - len(missing) - len(wrong)
        parts = [
            f"{kind}: {_some(names)}"
            for kind, names in (("missing", missing), ("unknown", left), ("of another shape", wrong))
            if names
        ]
        raise UserError(f"{what}: {fit} of {len(asked)} weights fit; {'; '.join(parts)}")
    return {key: tensors[name].reshape(own[key].shape) for name, key in asked.items()}


def taken(net: nn.Module, layout: Layout, pointwise: Callable[[str], bool] = lambda name: False) -> dict[str, Tensor]:
    """Our weights by their names; those for which `pointwise` says so as convolutions of 1x1."""
    out = {}
    for key, value in net.state_dict().items():
        name = layout(key)
        out[name] = value[..., None, None] if pointwise(name) and value.ndim == 2 else value
    return {name: value.contiguous() for name, value in out.items()}


def _squeezed(shape: torch.Size) -> tuple[int, ...]:
    return tuple(shape[:2]) if len(shape) == 4 and shape[2:] == (1, 1) else tuple(shape)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
