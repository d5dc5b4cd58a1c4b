"""Free text through a small encoder of our own: words of a known vocabulary, in context.

Words it does not know are not silently dropped: `notes` names them, with the nearest known word.
"""

import difflib
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from reverie.card import remembers
from reverie.denoiser import Cond
from reverie.errors import UserError
from reverie.nets.text import TextConfig, TextTransformer

PAD, EMPTY, FIRST = 0, 1, 2  # ids before the vocabulary's
WORD = re.compile(r"[^\W_]+")  # of any script: what is not known can only be named where it is seen
SMALL = frozenset(WORD.findall("a an the of in on at to is are be with and or has have having that this it its by for from as"))


def split(text: str) -> list[str]:
    """Lower-case words; hyphens and punctuation part them. UserError where it is not text."""
    if not isinstance(text, str):
        raise UserError(f"a prompt or negative prompt is {text!r}; this model reads words: give text")
    return WORD.findall(text.casefold().replace("'", ""))


@remembers
class Words(TextTransformer):
    """Prompts -> Cond with tokens (B, L, D), mask (B, L) and their pooled vector (B, D)."""

    def __init__(self, vocabulary: Sequence[str], text: TextConfig) -> None:
        super().__init__(text)
        self.vocabulary = tuple(vocabulary)
        self.ids = {word: FIRST + i for i, word in enumerate(self.vocabulary)}
        if FIRST + len(self.vocabulary) > text.vocabulary:
            raise ValueError(f"{len(self.vocabulary)} words do not fit into an embedding of {text.vocabulary} rows")

    def tokenise(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """ids and mask (B, L), cut or padded to the encoder's length L; the empty prompt is one token of its own."""
        length = self.config.length  # always: a prompt must not round differently beside a longer one
        rows = [[self.ids[w] for w in split(p) if w in self.ids][:length] or [EMPTY] for p in prompts]
        ids = torch.tensor([row + [PAD] * (length - len(row)) for row in rows], device=self.positions.device)
        return ids, ids != PAD

    def prompts(self, prompts: Sequence[str]) -> Cond:
        ids, mask = self.tokenise(prompts)
        tokens, pooled = self(ids, mask)
        return Cond(vector=pooled, tokens=tokens, mask=mask)

    def empty(self, count: int) -> Cond:
        return self.prompts([""] * count)

    def notes(self, prompt: str) -> list[str]:
        words = split(prompt)
        out = []
        for word in dict.fromkeys(w for w in words if w not in self.ids and w not in SMALL):
            close = difflib.get_close_matches(word, self.vocabulary, n=1, cutoff=0.7)
            out.append(
                f"'{word}' is not a word this model knows, so it has no effect" + (f"; did you mean '{close[0]}'?" if close else "")
            )
        if len(known := [w for w in words if w in self.ids]) > self.config.length:
            out.append(
                f"only the first {self.config.length} known words are read; ignored: {' '.join(known[self.config.length :])}"
            )
        return out
