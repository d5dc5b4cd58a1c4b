"""Changes of weights that were learnt apart: several at once, each by its weight, put in and taken out exactly.

    W' = W + sum over k of w_k D_k(W)                                                                               (1)

with D of `changes.py`. W' stands where W stood, so that nothing is built or compiled anew, and W is kept: with no change left it is
there again, bit for bit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from reverie.adapt.changes import Change
from reverie.errors import UserError
from reverie.nets.stack import Stack


@dataclass(frozen=True)
class Site:
    """A weight of theirs, which one or several of ours make up, and what was learnt of it.

    block: of the net, as the file names it; weight: of this change, times that of all of the file.
    """

    stack: Stack
    change: Change
    block: str = ""
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Lora:
    """One file of changes. about: what it says of itself."""

    name: str
    hash: str
    sites: Sequence[Site]
    about: Mapping[str, Any] = field(default_factory=dict)


class Changed:
    """Weights by their names, and changes of them."""

    def __init__(self, own: Mapping[str, Tensor]) -> None:
        self.own = dict(own)
        self.kept: dict[str, Tensor] = {}

    @torch.no_grad()
    def set(self, loras: Sequence[tuple[Lora, float]]) -> None:
        """From now on these changes are in place, and no others. UserError where one does not belong here, before anything is."""
        for lora, weight in loras:
            if not math.isfinite(weight):
                raise UserError(f"the weight of {lora.name} is {weight}; it is a number, 1 = as it was trained")
            for site in lora.sites:
                if why := misfit(site, self.own):
                    raise UserError(f"{lora.name} does not belong here: {why}")
        wanted = {key for lora, weight in loras for site in lora.sites if weight * site.weight for key in site.stack.keys}
        old = {key: self.kept.get(key, self.own[key].data) for key in wanted}
        total = {key: value.float() for key, value in old.items()}
        for lora, weight in loras:
            for site in lora.sites:
                if not (share := weight * site.weight):
                    continue
                whole = site.stack.together(old)
                change = site.change(whole).to(whole.device).reshape(whole.shape)
                for key, piece in zip(site.stack.keys, site.stack.apart(change, old), strict=True):
                    total[key] = total[key] + share * piece
        for key in self.kept.keys() - wanted:
            self.own[key].data = self.kept[key]
        for key in wanted - self.kept.keys():
            self.own[key].data = torch.empty_like(old[key])
        for key, value in total.items():
            self.own[key].data.copy_(value)
        self.kept = old


def misfit(site: Site, own: Mapping[str, Tensor]) -> str:
    """Why a change has no place among these weights; '' where it has. That of a convolution may lie in rows, as a matrix."""
    if strange := [key for key in site.stack.keys if key not in own]:
        return f"there is no {strange[0]} in this model"
    first = own[site.stack.keys[0]].shape
    shape, theirs = (sum(len(own[key]) for key in site.stack.keys), *first[1:]), tuple(site.change.shape)
    if theirs[0] != shape[0] or math.prod(theirs) != math.prod(shape):
        return f"{site.stack.keys[0]} is {shape}, and the change of it {theirs}: it is of another model"
    return ""
