"""An encoder that stays as it is, asked for each text by itself: what is said of a picture never rounds differently.

So a text is the same Cond whenever it is said, and can be remembered: with the memory or without it no bit of a training differs.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from reverie.denoiser import Cond

MOST = 2**28
"""Bytes that are remembered; what is heard after that is encoded each time."""


class Apart:
    """`encoder` without gradients; remember: what it said is kept."""

    def __init__(self, encoder: Any, *, remember: bool = True) -> None:
        self.encoder, self.remember = encoder, remember
        self.known: dict[Any, Cond] = {}
        self.bytes = 0

    def prompts(self, prompts: Sequence[Any], size: tuple[int, int] | None = None) -> Cond:
        """One row for each."""
        return Cond.cat([self._one(prompt, size) for prompt in prompts])

    def _one(self, prompt: Any, size: tuple[int, int] | None) -> Cond:
        key = (prompt, size)
        if key in self.known:
            return self.known[key]
        with torch.no_grad():
            cond: Cond = self.encoder.prompts([prompt], size)
        much = _bytes(cond)
        if self.remember and self.bytes + much <= MOST:
            self.known[key] = cond
            self.bytes += much
        return cond


def _bytes(cond: Cond) -> int:
    rooms = (getattr(cond, f.name) for f in fields(Cond))
    return sum(v.numel() * v.element_size() for v in rooms if isinstance(v, Tensor))
