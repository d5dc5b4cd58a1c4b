"""T5's encoder through transformers (Raffel et al., arXiv:1910.10683): a prompt as one row of tokens, of a fixed length.

What does not fit into the row is not read, and `notes` says which words those are.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reverie.denoiser import Cond
from reverie.encode.clip import words
from reverie.encode.pieces import Piece


class T5(nn.Module):
    """Prompts -> Cond with tokens (B, length, D) and, where `masked`, mask (B, length), True = a word and not filling.

    net: transformers' T5EncoderModel. tokenizer: its tokenizer. masked: neither the encoder nor the denoiser looks at the filling
    (PixArt); without it both do (Stable Diffusion 3, Flux).
    """

    place: torch.device = torch.device("cpu")

    def __init__(self, net: Any, tokenizer: Any, *, length: int, masked: bool = False) -> None:
        super().__init__()
        self.net, self.tokenizer, self.length, self.masked = net, tokenizer, length, masked

    def read(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(tokens (B, length, D), mask (B, length))."""
        texts = [words(p) for p in prompts]
        found = self.tokenizer(texts, padding="max_length", max_length=self.length, truncation=True, return_tensors="pt")
        ids, mask = found["input_ids"].to(self.place), found["attention_mask"].to(self.place)
        made = self.net(ids, attention_mask=mask if self.masked else None)
        return made.last_hidden_state.float(), mask.bool()

    def prompts(self, prompts: Sequence[str], size: tuple[int, int] | None = None) -> Cond:
        tokens, mask = self.read(prompts)
        return Cond(tokens=tokens, mask=mask if self.masked else None)

    def empty(self, count: int) -> Cond:
        return self.prompts([""] * count)

    def pieces(self, prompt: str) -> list[Piece]:
        """What each row of the tokens stands for."""
        found = self.tokenizer(words(prompt), padding="max_length", max_length=self.length, truncation=True)
        return [("t5", token) for token in found["input_ids"]]

    def notes(self, prompt: str) -> list[str]:
        return cut(self.tokenizer, prompt, self.length - 1)


def cut(tokenizer: Any, prompt: str, room: int) -> list[str]:
    """What of the prompt lies beyond `room` tokens, in one line; nothing where it fits."""
    ids: list[int] = tokenizer(words(prompt), add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) <= room:
        return []
    begin = tokenizer.decode(ids[room : room + 8]).strip()[:60]
    return [f"only the first {room} tokens of the prompt are read; ignored: {len(ids) - room} tokens, from '{begin}' on"]


def filled_to(tokens: Tensor, width: int) -> Tensor:
    """tokens (B, L, D) with zeros behind their entries, (B, L, width)."""
    return torch.nn.functional.pad(tokens, (0, width - tokens.shape[-1]))
