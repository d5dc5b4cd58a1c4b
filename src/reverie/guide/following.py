"""Pictures that follow another: the attention of one picture is laid into others of the same noise (prompt-to-prompt).

Hertz et al., arXiv:2208.01626. Where words look is what a picture's composition is; so that the tables of attention of a source,
put in place of another's while the picture takes shape, keep its composition under other words. With M of the source, M* of the
picture that follows, and a(j) the token of the source that token j stands for,

    column j of M* <- column a(j) of M where there is one, its own where not, times the weight of j                     (1)

in attention to tokens, for the first `cross` of the way (weights all along); attention of the picture to itself is the source's for
the first `own` of it. It is done in one forward of both, through `nets.looking`, for every backbone; of joint attention, (1) holds
for the rows of the picture.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Any

import torch
from torch import Tensor

from reverie.denoiser import Cond, Model
from reverie.errors import UserError, number
from reverie.guide.kept import left
from reverie.nets.looking import Attend, Site, looking, weights
from reverie.process.path import Path, time

PLAIN, SOURCE = -3, -2
"""What `Cond.echo` says of rows that have nothing to do with others, and of sources; of those that follow it holds a(j), or -1. The
k-th of the rows that follow follows the k-th source."""


def aligned(source: Sequence[Any], target: Sequence[Any]) -> list[int]:
    """a(j) of equation (1): the place in `source` of each piece of `target`, -1 where it is new.

    Pieces that were put in the place of others stand for them, in order: a word that is exchanged keeps its place in the picture.
    """
    places = [-1] * len(target)
    for kind, i1, i2, j1, j2 in SequenceMatcher(None, source, target, autojunk=False).get_opcodes():
        if kind in ("equal", "replace"):
            for j in range(j1, j2):
                places[j] = i1 + (j - j1) * (i2 - i1) // (j2 - j1)
    return places


@dataclass(frozen=True)
class Following:
    """A model whose rows follow others, as `Cond.echo` (B, L) says; `Cond.stress` (B, L) weighs the tokens of those that follow.

    grid: the times of the way. cross, own: as of equation (1).
    """

    model: Model
    grid: Tensor
    cross: float = 0.8
    own: float = 0.4

    def __post_init__(self) -> None:
        for name, share in (("cross", self.cross), ("own", self.own)):
            number(name, share)
            if not 0 <= share <= 1:
                raise UserError(f"{name} is {share}; it is a share of the way, between 0 and 1")

    @property
    def path(self) -> Path:
        return self.model.path

    def __call__(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        with self._looking(t, cond):
            return self.model(x, t, _plain(cond))

    def with_variance(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> tuple[Tensor, Tensor]:
        model: Any = self.model
        with self._looking(t, cond):
            mean, share = model.with_variance(x, t, _plain(cond))
        return mean, share

    def _looking(self, t: Tensor, cond: Cond | None) -> AbstractContextManager[Any]:
        if cond is None or cond.echo is None or cond.stress is None:
            return nullcontext()
        role = cond.echo[:, 0]
        source, follows = (role == SOURCE).nonzero()[:, 0], (role >= -1).nonzero()[:, 0]
        if len(source) != len(follows):
            raise UserError("pictures that follow others are drawn together with them: leave out strict")
        if not len(follows):
            return nullcontext()
        gone = 1 - float(left(self.grid, time(t)).max())
        told = (cond.echo[follows], cond.stress[follows])
        return looking(Look(source, follows, *told, gone < self.cross, gone < self.own))


def _plain(cond: Cond | None) -> Cond | None:
    return None if cond is None else replace(cond, echo=None, stress=None)


@dataclass(frozen=True)
class Look:
    """What changes the attentions of one evaluation. source, follows: rows of the batch. echo, stress: of those that follow.

    cross, own: what is laid over.
    """

    source: Tensor
    follows: Tensor
    echo: Tensor
    stress: Tensor
    cross: bool
    own: bool

    def __call__(self, site: Site, attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        made = attend(q, k, v, mask)
        source, follows = self.source.to(q.device), self.follows.to(q.device)
        text = self.echo.shape[1]
        tokens = (site.kind == "cross" and k.shape[-2] == text) or (site.kind == "joint" and site.text == text)
        if not tokens:
            if not self.own or site.kind == "cross":
                return made
            return made.index_copy(0, follows, attend(q[source], k[source], v[follows], _of(mask, source)))
        whole = site.kind == "joint"
        table = weights(q[follows], k[follows], _of(mask, follows))
        theirs = weights(q[source], k[source], _of(mask, source))
        laid = self._laid(table, theirs, text)
        if whole:
            laid[..., :text, :] = table[..., :text, :]  # what the tokens look at stays
        return made.index_copy(0, follows, (laid.to(v.dtype) @ v[follows]).to(made.dtype))

    def _laid(self, table: Tensor, theirs: Tensor, text: int) -> Tensor:
        """Equation (1), and of joint attention the rest of the columns."""
        places, stress = (v.to(table.device)[:, None, None] for v in (self.echo, self.stress))  # (F, 1, 1, L)
        words, rest = table[..., :text], table[..., text:]
        if self.cross:
            words = torch.where(places >= 0, theirs.gather(-1, places.clamp(min=0).expand_as(words)), words)
        return torch.cat([words * stress.to(words), theirs[..., text:] if self.own else rest], -1)


def _of(mask: Tensor | None, rows: Tensor) -> Tensor | None:
    return mask if mask is None or len(mask) == 1 else mask[rows]
