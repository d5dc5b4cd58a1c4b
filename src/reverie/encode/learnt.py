"""Words that were learnt later, under names of their own: vectors where an encoder has those of its vocabulary (Textual Inversion,
Gal et al., arXiv:2208.01618).

A word of n vectors is read as n ids below 0, -1 for the first vector of all: no id of a vocabulary moves, and none is larger.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from reverie.errors import UserError

SIGNS = re.compile(r"[\s()\[\]|:\\]")
"""What no name holds: it would end there, or mean something else in a prompt."""


class Learnt(nn.Module):
    """Names, and their vectors (n, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.names = width, dict[str, range]()
        self.vectors = nn.Parameter(torch.zeros(0, width), requires_grad=False)
        self.lent: Tensor | None = None

    def add(self, name: str, vectors: Tensor) -> None:
        """vectors (n, width). Raises UserError where the name cannot be read in a prompt, or they are of another encoder."""
        if not name or SIGNS.search(name):
            raise UserError(f"a word cannot be called {name!r}: a name has no spaces, brackets, colons or bars")
        if vectors.ndim != 2 or not len(vectors) or vectors.shape[1] != self.width:
            raise UserError(f"{name} has vectors {tuple(vectors.shape)}, and this encoder's are {self.width} wide")
        if name.casefold() in self.names:
            raise UserError(f"{name} is learnt already: give one of the two another name")
        first = len(self.vectors)
        self.names[name.casefold()] = range(first, first + len(vectors))
        held = self.vectors
        self.vectors = nn.Parameter(torch.cat([held.data, vectors.to(held)]), requires_grad=held.requires_grad)

    def of(self, name: str) -> Tensor:
        """The vectors (n, width) of a word."""
        rows = self.names[name.casefold()]
        return self.table[rows.start : rows.stop]

    @property
    def table(self) -> Tensor:
        """The vectors of all words, one after the other."""
        return self.vectors if self.lent is None else self.lent

    @contextmanager
    def instead(self, words: Mapping[str, Tensor]) -> Iterator[None]:
        """Meanwhile it knows these words alone, whose vectors (n, width) are what another net says: gradients reach that."""
        names, first, held = dict[str, range](), 0, (self.names, self.lent)
        for name, vectors in words.items():
            names[name.casefold()] = range(first, first := first + len(vectors))
        self.names, self.lent = names, torch.cat(list(words.values()))
        try:
            yield
        finally:
            self.names, self.lent = held

    def parted(self, text: str) -> Iterator[tuple[str, Sequence[int]]]:
        """A text in parts: learnt words with their ids, and what stands between them with none."""
        if not self.names or not isinstance(text, str):
            yield text, ()
            return
        known = "|".join(re.escape(name) for name in sorted(self.names, key=len, reverse=True))
        last = 0
        for match in re.finditer(rf"(?<!\w)(?:{known})(?!\w)", text, re.IGNORECASE):
            yield text[last : match.start()], ()
            yield match[0], [-1 - row for row in self.names[match[0].casefold()]]
            last = match.end()
        yield text[last:], ()


def parted(table: nn.Embedding, text: str) -> Iterator[tuple[str, Sequence[int]]]:
    """A text in parts, as of the words that this embedding has learnt."""
    found = getattr(table, "learnt", None)
    return found.parted(text) if isinstance(found, Learnt) else iter([(text, ())])


def learnt_by(table: nn.Embedding) -> Learnt:
    """The learnt words of an embedding, which reads ids below 0 from now on; at first there are none."""
    found = getattr(table, "learnt", None)
    if isinstance(found, Learnt):
        return found
    made = Learnt(table.embedding_dim)
    object.__setattr__(table, "learnt", made)  # no part of the table: what is saved of it stays the same
    table.register_forward_pre_hook(_before)
    table.register_forward_hook(_after)
    return made


def _before(table: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    object.__setattr__(table, "asked", given[0])
    return (given[0].clamp_min(0), *given[1:])


def _after(table: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
    ids, learnt = table.asked, table.learnt
    assert isinstance(ids, Tensor) and isinstance(learnt, Learnt)
    if not bool((ids < 0).any()):
        return out
    rows = learnt.table.to(out)[(-1 - ids).clamp_min(0)]
    return torch.where((ids < 0)[..., None], rows, out)
