"""Free text through a small encoder of our own that has no vocabulary: every word is read by its letters.

Words and runs of three to five letters are hashed (CRC-32) into the rows of a table, so a word that no caption held still says what
its letters tell; what it knows of English it was taught by a larger encoder (`train/distilling.py`). An emoji in a prompt is read
by its Unicode name.
"""

import functools
import math
import unicodedata
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from reverie.card import remembers
from reverie.denoiser import Cond
from reverie.encode.words import INSTEAD, NEGATIONS, split
from reverie.nets.letters import OWN, LettersConfig, LettersTransformer

EMPTY = 1  # the row of the empty prompt; 0 is of what is not there
LONGEST = 40  # letters of a word that are looked at
RUNS = (3, 4, 5)
KEPT = 50_000  # words whose rows are remembered


def words(text: str) -> list[str]:
    """Lower-case words, as `words.split`; pictograms are named."""
    if isinstance(text, str):
        text = "".join(f" {_name(c)} " if ord(c) > 0x2000 and unicodedata.category(c) == "So" else c for c in text)
    return split(text)


def _name(sign: str) -> str:
    return unicodedata.name(sign, "").lower()


@functools.lru_cache(KEPT)
def rows(word: str, table: int, most: int) -> tuple[int, ...]:
    """The 2 + `most` rows of a word in a table of `table`: its own, those of its runs of letters, 0 for what is missing."""
    spelt = f"<{word[:LONGEST]}>"
    own = [_row(f"{k}{word}", table) for k in range(OWN)]
    runs = [_row(spelt[i : i + n], table) for n in RUNS for i in range(len(spelt) - n + 1)][:most]
    return (*own, *runs, *[0] * (most - len(runs)))


def _row(text: str, table: int) -> int:
    return EMPTY + 1 + zlib.crc32(text.encode()) % (table - EMPTY - 1)


@remembers
class Letters(LettersTransformer):
    """Prompts -> Cond with tokens (B, L, width), mask (B, L) and their vector (B, out), whose entries have a mean square of 1."""

    def __init__(self, text: LettersConfig) -> None:
        super().__init__(text)

    def tokenise(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """ids (B, L, 2 + runs) and mask (B, L), cut or padded to the encoder's length L; the empty prompt is a word of its own."""
        c = self.config
        ids = torch.zeros(len(prompts), c.length, OWN + c.runs, dtype=torch.int64)
        mask = torch.zeros(len(prompts), c.length, dtype=torch.bool)
        for k, prompt in enumerate(prompts):
            spelt = [rows(word, c.rows, c.runs) for word in words(prompt)[: c.length]] or [(EMPTY, *[0] * (OWN + c.runs - 1))]
            ids[k, : len(spelt)] = torch.tensor(spelt)
            mask[k, : len(spelt)] = True
        return ids.to(self.positions.device), mask.to(self.positions.device)

    def prompts(self, prompts: Sequence[str], size: tuple[int, int] | None = None) -> Cond:
        ids, mask = self.tokenise(prompts)
        tokens, pooled = self(ids, mask)
        return Cond(vector=pooled * math.sqrt(self.config.out), tokens=tokens, mask=mask)

    def empty(self, count: int) -> Cond:
        return self.prompts([""] * count)

    def notes(self, prompt: str) -> list[str]:
        found, out = words(prompt), []
        if prompt.strip() and not found:
            out.append(f"there is no word in '{prompt}', so it has no effect: describe what you want in English")
        for word in dict.fromkeys(found):
            if word in NEGATIONS:
                out.append(f"'{word}' is hardly understood; this model cannot be told what something is not: {INSTEAD}")
            elif not any(c.isascii() for c in word):
                out.append(f"'{word}' means little to this model, which has read English only: say it in English")
        if len(found) > self.config.length:
            out.append(f"only the first {self.config.length} words are read; ignored: {' '.join(found[self.config.length :])}")
        return out
