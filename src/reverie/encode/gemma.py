"""Gemma 2 through transformers, as Sana reads it (Xie et al., arXiv:2410.10629, section 3.1): a decoder's last hidden states.

An instruction may stand before the prompt; the encoder reads both, and the denoiser sees the first token and what follows the
instruction, `length` tokens in all. Negative prompts go without it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reverie.denoiser import Cond
from reverie.encode.clip import words
from reverie.encode.pieces import Piece
from reverie.encode.t5 import cut


class Gemma(nn.Module):
    """Prompts -> Cond with tokens (B, length, D) and mask (B, length), True = a word and not filling.

    net: transformers' Gemma2Model. tokenizer: its tokenizer.
    """

    place: torch.device = torch.device("cpu")

    def __init__(self, net: Any, tokenizer: Any, *, length: int = 300, instruction: str = "") -> None:
        super().__init__()
        self.net, self.tokenizer, self.length, self.instruction = net, tokenizer, length, instruction
        tokenizer.padding_side = "right"

    def prompts(self, prompts: Sequence[str], size: tuple[int, int] | None = None) -> Cond:
        return self._read(prompts, self.instruction)

    def against(self, prompts: Sequence[str], size: tuple[int, int] | None = None) -> Cond:
        """Of negative prompts: they are read without the instruction."""
        return self._read(prompts, "")

    def empty(self, count: int) -> Cond:
        return self.against([""] * count)

    def pieces(self, prompt: str) -> list[Piece]:
        """What each row of the tokens stands for; the instruction's are not among them."""
        found = self.tokenizer(words(prompt).lower().strip(), padding="max_length", max_length=self.length, truncation=True)
        return [("gemma", token) for token in found["input_ids"]]

    def notes(self, prompt: str) -> list[str]:
        return cut(self.tokenizer, words(prompt).lower().strip(), self.length - 1 - bool(self.instruction))

    def _read(self, prompts: Sequence[str], before: str) -> Cond:
        texts = [before + words(p).lower().strip() for p in prompts]
        room = self.length + (len(self.tokenizer.encode(before)) - 2 if before else 0)
        found = self.tokenizer(texts, padding="max_length", max_length=room, truncation=True, return_tensors="pt")
        ids, mask = found["input_ids"].to(self.place), found["attention_mask"].to(self.place)
        hidden: Tensor = self.net(ids, attention_mask=mask).last_hidden_state.float()
        kept = [0, *range(room - self.length + 1, room)]
        return Cond(tokens=hidden[:, kept], mask=mask[:, kept].bool())
