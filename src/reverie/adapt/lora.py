"""Changes of weights that were learnt apart: several at once, each by its weight, put in and taken out exactly.

    W' = W + sum over k of w_k D_k,      D = (alpha / r) B A      (LoRA, Hu et al., arXiv:2106.09685)                (1)

W' is written where W lies, so that nothing is built or compiled anew, and W is kept beside: with no change left it is W again, bit
for bit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from reverie.errors import UserError


class Change(Protocol):
    """D of one weight, from what was learnt of it, and its shape."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __call__(self) -> Tensor: ...


@dataclass(frozen=True)
class LowRank:
    """(alpha / r) B A: up (out, r), down (r, in), of any further axes that are 1 or those of a convolution in `down`."""

    up: Tensor
    down: Tensor
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.up), *self.down.shape[1:])

    def __call__(self) -> Tensor:
        return self.scale * (self.up.float().flatten(1) @ self.down.float().flatten(1)).reshape(self.shape)


@dataclass(frozen=True, kw_only=True)
class Lora:
    """One file of changes, by the names of the weights that they belong to. about: what it says of itself."""

    name: str
    hash: str
    changes: Mapping[str, Change]
    about: Mapping[str, Any] = field(default_factory=dict)


class Changed:
    """The weights of a module, and changes of them."""

    def __init__(self, module: nn.Module) -> None:
        self.own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self.kept: dict[str, Tensor] = {}

    @torch.no_grad()
    def set(self, loras: Sequence[tuple[Lora, float]]) -> None:
        """From now on these changes are in place, and no others. UserError where one does not belong here."""
        for lora, weight in loras:
            if not math.isfinite(weight):
                raise UserError(f"the weight of {lora.name} is {weight}; it is a number, 1 = as it was trained")
            for name, change in lora.changes.items():
                self._check(lora.name, name, change.shape)
        wanted = {name for lora, weight in loras if weight for name in lora.changes}
        for name in wanted - self.kept.keys():
            self.kept[name] = self.own[name].detach().clone()
        for name, old in self.kept.items():
            here = self.own[name]
            total = old.float() if name in wanted else old
            for lora, weight in loras:
                if weight and name in lora.changes:
                    total = total + weight * lora.changes[name]().to(old.device).reshape(old.shape)
            here.data.copy_(total)
        self.kept = {name: old for name, old in self.kept.items() if name in wanted}

    def _check(self, lora: str, name: str, shape: tuple[int, ...]) -> None:
        """UserError where a change has no place here; a layer may be a convolution of one place, or the other way round."""
        if name not in self.own:
            raise UserError(f"{lora} changes {name}, which this model has not")
        own = tuple(self.own[name].shape)
        if [n for n in shape if n > 1] != [n for n in own if n > 1]:
            raise UserError(f"{lora} changes {name} by {shape}, and it is {own}: it is of another model")
