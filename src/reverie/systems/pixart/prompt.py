"""What PixArt is told: T5's words, in small letters, and where it was trained at many sizes, the size of the picture."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from reverie.denoiser import Cond
from reverie.encode.clip import words
from reverie.encode.pieces import Piece
from reverie.encode.t5 import T5


class PromptPixArt(T5):
    """Prompts -> Cond with tokens (B, L, D), mask (B, L) and, where `size` is given, vector (B, 3): height, width, their ratio."""

    def __init__(self, t5: T5, size: tuple[int, int] | None) -> None:
        super().__init__(t5.net, t5.tokenizer, length=t5.length, masked=True)
        self.size = size

    def pieces(self, prompt: str) -> list[Piece]:
        return super().pieces(words(prompt).lower().strip())

    def notes(self, prompt: str) -> list[str]:
        return super().notes(words(prompt).lower().strip())

    def prompts(self, prompts: Sequence[str], size: tuple[int, int] | None = None) -> Cond:
        cond = super().prompts([words(p).lower().strip() for p in prompts])
        if self.size is None:
            return cond
        height, width = size or self.size
        return replace(cond, vector=torch.tensor([[height, width, height / width]] * len(prompts), dtype=torch.float32))
