"""Free text through a small encoder of our own: words of a known vocabulary, in context.

Words it does not know are not silently dropped: `notes` names them, with the nearest known word. English says that something is
absent in many ways, and captions in few: all are brought to "with no" before words are looked up, in captions and in prompts alike.
"""

import difflib
import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from reverie.card import remembers
from reverie.denoiser import Cond
from reverie.encode.learnt import Learnt, learnt_by, parted
from reverie.encode.pieces import Piece
from reverie.errors import UserError
from reverie.nets.text import TextConfig, TextTransformer

PAD, EMPTY, FIRST = 0, 1, 2  # ids before the vocabulary's
WORD = re.compile(r"[^\W_]+")  # of any script: what is not known can only be named where it is seen
WITHOUT = re.compile(r"(?<!\w)(?:without|w/o|sans|lacking)(?:\s+(?:any|an?))?(?!\w)")
SMALL = frozenset(WORD.findall("a an the of in on at to is are be with and or has have having that this it its by for from as"))
NEGATIONS = frozenset(
    WORD.findall(
        "no not non never none nor neither cannot except excluding minus isnt arent aint wasnt werent dont doesnt didnt wont cant "
        "couldnt hasnt havent hadnt wouldnt shouldnt"
    )
)
INSTEAD = "say what it is instead, or name what you do not want with --negative"


def split(text: str) -> list[str]:
    """Lower-case words; hyphens and punctuation part them, and "without a" is "with no". UserError where it is not text."""
    if not isinstance(text, str):
        raise UserError(f"a prompt or negative prompt is {text!r}; this model reads words: give text")
    plain = re.sub("['\N{RIGHT SINGLE QUOTATION MARK}]", "", text.casefold())
    return WORD.findall(WITHOUT.sub("with no", plain))


@remembers
class Words(TextTransformer):
    """Prompts -> Cond with tokens (B, L, D), mask (B, L) and their pooled vector (B, D)."""

    def __init__(self, vocabulary: Sequence[str], text: TextConfig) -> None:
        super().__init__(text)
        self.vocabulary = tuple(vocabulary)
        self.ids = {word: FIRST + i for i, word in enumerate(self.vocabulary)}
        if FIRST + len(self.vocabulary) > text.vocabulary:
            raise ValueError(f"{len(self.vocabulary)} words do not fit into an embedding of {text.vocabulary} rows")

    def learnt(self) -> Learnt:
        """Words that it learnt later."""
        return learnt_by(self.words)

    def initial(self, text: str) -> Tensor:
        """Vectors (n, D) that a new word may begin as: those of known words, or the middle of all."""
        ids = [i for _, i in self.read(text) if i is not None]
        table = self.words.weight.detach()
        return table[ids] if text else table[FIRST : FIRST + len(self.vocabulary)].mean(0, keepdim=True)

    def read(self, prompt: str) -> list[tuple[str, int | None]]:
        """The words of a prompt with their ids; none of those that it does not know."""
        out: list[tuple[str, int | None]] = []
        for text, ids in self._parted(prompt):
            out += [(text, i) for i in ids] if ids else [(word, self.ids.get(word)) for word in split(text)]
        return out

    def _parted(self, prompt: str) -> Iterable[tuple[str, Sequence[int]]]:
        return parted(self.words, prompt)

    def tokenise(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """ids and mask (B, L), cut or padded to the encoder's length L; the empty prompt is one token of its own."""
        length = self.config.length  # always: a prompt must not round differently beside a longer one
        rows = [[i for _, i in self.read(p) if i is not None][:length] or [EMPTY] for p in prompts]
        ids = torch.tensor([row + [PAD] * (length - len(row)) for row in rows], device=self.positions.device)
        return ids, ids != PAD

    def prompts(self, prompts: Sequence[str], size: tuple[int, int] | None = None) -> Cond:
        ids, mask = self.tokenise(prompts)
        tokens, pooled = self(ids, mask)
        return Cond(vector=pooled, tokens=tokens, mask=mask)

    def empty(self, count: int) -> Cond:
        return self.prompts([""] * count)

    def pieces(self, prompt: str) -> list[Piece]:
        """What each row of the tokens stands for."""
        return [("word", int(i)) for i in self.tokenise([prompt])[0][0]]

    def notes(self, prompt: str) -> list[str]:
        words = self.read(prompt)
        out = []
        for word in dict.fromkeys(w for w, i in words if i is None and w not in SMALL):
            out.append(f"'{word}' is not a word this model knows, so it has no effect{self._remedy(word)}")
        if len(known := [w for w, i in words if i is not None]) > self.config.length:
            out.append(
                f"only the first {self.config.length} known words are read; ignored: {' '.join(known[self.config.length :])}"
            )
        return out

    def _remedy(self, word: str) -> str:
        if word in NEGATIONS:  # the word nearest in letters ("knot") would make it worse
            return f"; this model cannot be told what something is not: {INSTEAD}"
        close = difflib.get_close_matches(word, self.vocabulary, n=1, cutoff=0.7)
        return f"; did you mean '{close[0]}'?" if close else ""
