"""Weights of ours that others keep as one tensor, row under row."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Stack(NamedTuple):
    """Our keys that make up one tensor of theirs, in order, and in how many rounds they are stacked."""

    keys: Sequence[str]
    rounds: int = 1

    def apart(self, tensor: Tensor, own: Mapping[str, Tensor]) -> list[Tensor]:
        """Their tensor as ours."""
        if len(self.keys) == 1:
            return [tensor]
        sizes = [len(own[key]) // self.rounds for key in self.keys]
        return [piece.flatten(0, 1) for piece in tensor.unflatten(0, (self.rounds, -1)).split(sizes, 1)]

    def together(self, own: Mapping[str, Tensor]) -> Tensor:
        """Ours as theirs."""
        pieces = [own[key].unflatten(0, (self.rounds, -1)) for key in self.keys]
        return torch.cat(pieces, 1).flatten(0, 1) if len(pieces) > 1 else own[self.keys[0]]
