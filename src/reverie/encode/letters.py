"""Free text through a small encoder of our own that can spell: words it does not know are read by their letters.

Runs of three to five letters of an unknown word are hashed (CRC-32) into the rows of a table, so that it still says what its
letters tell ("puppies", "catlike", "strawbery"), and `notes` says that it was guessed. What the encoder knows of English it was
taught by a larger one (`train/distilling.py`). An emoji in a prompt is read by its Unicode name.
"""

import difflib
import functools
import math
import unicodedata
import zlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from reverie.card import remembers
from reverie.denoiser import Cond
from reverie.encode.words import INSTEAD, NEGATIONS, split
from reverie.nets.letters import LettersConfig, LettersTransformer

EMPTY, FIRST = 1, 2  # the row of the empty prompt, and the first of the vocabulary's; 0 is of what is not there
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
def runs(word: str, table: int, most: int) -> tuple[int, ...]:
    """The `most` rows, in a table of `table`, of the runs of letters of a word; 0 for what is missing."""
    spelt = f"<{word[:LONGEST]}>"
    found = [1 + zlib.crc32(spelt[i : i + n].encode()) % (table - 1) for n in RUNS for i in range(len(spelt) - n + 1)][:most]
    return (*found, *[0] * (most - len(found)))


@remembers
class Letters(LettersTransformer):
    """Prompts -> Cond with tokens (B, L, width), mask (B, L) and their vector (B, out), whose entries have a mean square of 1."""

    def __init__(self, vocabulary: Sequence[str], text: LettersConfig) -> None:
        super().__init__(text)
        self.vocabulary = tuple(vocabulary)
        self.ids = {word: FIRST + i for i, word in enumerate(self.vocabulary)}
        if FIRST + len(self.vocabulary) > text.words:
            raise ValueError(f"{len(self.vocabulary)} words do not fit into a table of {text.words} rows")

    def tokenise(self, prompts: Sequence[str], spell: Callable[[], bool] = lambda: False) -> tuple[Tensor, Tensor]:
        """ids (B, L, 1 + runs) and mask (B, L), cut or padded to the encoder's length L; the empty prompt is a word of its own.

        spell: asked of every word in turn whether it is to be spelt although it is known, as is done now and then in training.
        """
        c = self.config
        ids = torch.zeros(len(prompts), c.length, 1 + c.runs, dtype=torch.int64)
        mask = torch.zeros(len(prompts), c.length, dtype=torch.bool)
        for k, prompt in enumerate(prompts):
            read = [self._row(word, spell()) for word in words(prompt)[: c.length]] or [(EMPTY, *[0] * c.runs)]
            ids[k, : len(read)] = torch.tensor(read)
            mask[k, : len(read)] = True
        return ids.to(self.positions.device), mask.to(self.positions.device)

    def _row(self, word: str, spelt: bool) -> tuple[int, ...]:
        c = self.config
        known = 0 if spelt else self.ids.get(word, 0)
        return (known, *[0] * c.runs) if known else (0, *runs(word, c.rows, c.runs))

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
            elif word not in self.ids and not word.isdigit():
                close = difflib.get_close_matches(word, self.vocabulary, n=1, cutoff=0.8)
                remedy = f"; did you mean '{close[0]}'?" if close else ""
                out.append(f"'{word}' is not a word this model knows, and was guessed by its letters{remedy}")
        if len(found) > self.config.length:
            out.append(f"only the first {self.config.length} words are read; ignored: {' '.join(found[self.config.length :])}")
        return out
