"""Guidance: a denoiser made from denoisers, as one formula whose parts may be stacked.

    x0 = u + w(t) (c - u) + sum_k s_k(t) (c - u_k)                                                                 (1)

c = model(x, t, cond) is evaluated once; u is the same model under another condition, in the same batch (classifier-free guidance,
arXiv:2207.12598); each u_k is something worse than the model, or stands for a gradient. Where something is done to the difference,
(1) is written c + (w - 1) (c - u) + ..., which is the same. What is done to the result comes last. w = 1 with nothing else is the
model itself, bit for bit.

A `Guide` is one wish. It adds its part to a `Guided`; parts of one kind act in the order in which they were asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from reverie.card import Card
from reverie.denoiser import Cond, Model, OneByOne
from reverie.errors import UserError
from reverie.process.path import Path, like, time

NEAR = 1e-9
"""Of t: a solver may come back to a knot by way of lam(t)."""
Scale = float | Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class At:
    """Where a part of the formula is asked: x (B, ...) at t (B,) under cond; c (B, ...) is the model's own estimate there.

    rows (B,) bool: the samples that have w other than 1 there, and move.
    """

    x: Tensor
    t: Tensor
    cond: Cond | None
    path: Path
    c: Tensor
    rows: Tensor


Weigh = Callable[[Tensor, Tensor], Tensor]  # (t (B,), w (B,)) -> w (B,)
Rows = Callable[[Tensor], Tensor]  # t (B,) -> (B,) bool
Change = Callable[[At, Tensor], Tensor]  # of u, of c - u, or of the result
Term = Callable[[At], Tensor | None]  # what is added; None is nothing


@dataclass(frozen=True)
class Guided:
    """Equation (1). weigh: change w. gates: where one of them is shut, the model is plain. against: change u; steers: c - u;
    finish: the result. still: where the estimate is x / (alpha + sigma), with which nothing moves."""

    model: Model
    scale: Scale = 1.0
    negative: Cond | None = None
    weigh: tuple[Weigh, ...] = ()
    gates: tuple[Rows, ...] = ()
    against: tuple[Change, ...] = ()
    steers: tuple[Change, ...] = ()
    terms: tuple[Term, ...] = ()
    finish: tuple[Change, ...] = ()
    still: tuple[Rows, ...] = ()

    @property
    def path(self) -> Path:
        return self.model.path

    def __call__(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        every, is_open, w = self._weights(x, t)
        if self._plain(is_open, w):
            return self.model(x, t, cond)
        stays = self._stays(every, is_open)
        if bool(stays.all()):
            return self._unmoved(x, every)
        c, u = (self.model(x, t, cond), None) if bool((w == 1).all()) else self.both(x, t, cond)
        return self._combined(At(x, every, cond, self.path, c, (w != 1) & ~stays), u, w, is_open)

    def with_variance(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> tuple[Tensor, Tensor]:
        """The guided mean, and the variance that the model learnt under the condition itself."""
        every, is_open, w = self._weights(x, t)
        own = cast(Any, self.model).with_variance
        if bool((w == 1).all()):
            (c, variance), u = own(x, t, cond), None
        elif cond is None:
            (c, variance), u = own(x, t, cond), self.model(x, t, self.negative)
        else:
            means, variances = own(*self._twice(x, t, cond))
            (c, u), variance = means.chunk(2), variances.chunk(2)[0]
        at = At(x, every, cond, self.path, c, (w != 1) & ~self._stays(every, is_open))
        return c if self._plain(is_open, w) else self._combined(at, u, w, is_open), variance

    def both(self, x: Tensor, t: Tensor, cond: Cond | None) -> tuple[Tensor, Tensor]:
        """c and u, in one batch."""
        if cond is None:
            return self.model(x, t, cond), self.model(x, t, self.negative)
        c, u = self.model(*self._twice(x, t, cond)).chunk(2)
        return c, u

    def _weights(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """t, whether guidance is on, and w, each (B,)."""
        every = time(t).expand(x.shape[0])
        w = self.scale(every) if callable(self.scale) else torch.full_like(every, self.scale)
        for change in self.weigh:
            w = change(every, w)
        is_open = torch.ones_like(every, dtype=torch.bool)
        for gate in self.gates:
            is_open = is_open & gate(every)
        return every, is_open, torch.where(is_open, w, 1.0)

    def _plain(self, is_open: Tensor, w: Tensor) -> bool:
        """Whether nothing is asked of any sample."""
        more = self.terms or self.finish or self.still
        return bool((w == 1).all()) and not (more and bool(is_open.any()))

    def _combined(self, at: At, u: Tensor | None, w: Tensor, is_open: Tensor) -> Tensor:
        out = at.c if u is None else self._towards(at, u, w)
        shut = None if bool(is_open.all()) else like(~is_open, at.c).bool()
        for term in self.terms:
            if (more := term(at)) is not None:
                out = out + (more if shut is None else more.masked_fill(shut, 0))
        for change in self.finish:
            out = change(at, out)
        if bool((stays := self._stays(at.t, is_open)).any()):
            out = torch.where(like(stays, out).bool(), self._unmoved(at.x, at.t), out)
        return out if shut is None else torch.where(shut, at.c, out)

    def _towards(self, at: At, u: Tensor, w: Tensor) -> Tensor:
        for change in self.against:
            u = change(at, u)
        step = at.c - u
        for change in self.steers:
            step = change(at, step)
        out = at.c + like(w - 1, step) * step if self.steers else u + like(w, step) * step
        return out if bool(at.rows.all()) else torch.where(like(at.rows, out).bool(), out, at.c)

    def _stays(self, t: Tensor, is_open: Tensor) -> Tensor:
        stays = torch.zeros_like(is_open)
        for rows in self.still:
            stays = stays | rows(t)
        return stays & is_open

    def _unmoved(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.path(t)
        return x / like(alpha + sigma, x)

    def _twice(self, x: Tensor, t: Tensor, cond: Cond) -> tuple[Tensor, Tensor, Cond]:
        assert self.negative is not None
        return torch.cat([x, x]), time(t).expand(x.shape[0]).repeat(2), Cond.cat([cond, self.negative])


def cfg(model: Model, scale: Scale, negative: Cond | None) -> Model:
    """Classifier-free guidance; `negative` is the empty or negative condition, one row per sample. scale 1: `model` itself."""
    if negative is None:
        raise UserError("classifier-free guidance needs a negative condition: encode the empty prompt, or use scale 1")
    return model if scale == 1 else Guided(model, scale, negative)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What guidance is asked of. plain: the model before it. negative: the empty or negative condition, None where there is none.

    scale: w. grid (n + 1,) or (n + 1, B): the times of the steps. said: what was asked for, one per sample. cond: as it was heard.
    hear: another system -> the condition that it hears of the same; None = `said` is words. words: one of `said` without its signs.
    """

    plain: Model
    grid: Tensor
    scale: float = 1.0
    negative: Cond | None = None
    said: tuple[Any, ...] = ()
    cond: Cond | None = None
    hear: Callable[[Any], Cond | None] | None = None
    words: Callable[[Any], Any] = lambda said: said

    def likewise(self, other: Model) -> Model:
        """Another model, evaluated one sample at a time where the plain one is."""
        inner: Any = self.plain
        while inner is not None and not isinstance(inner, OneByOne):
            inner = getattr(inner, "model", None)
        return other if inner is None else OneByOne(other)


@dataclass(frozen=True)
class Guide:
    """One wish, by what it adds to the formula.

    lacks: the name of a file that must be opened first, and complete: what makes the guide of what was in it; `wants` says whether
    that is a `Hearing` or a `Witness`. `reverie.systems.guides.opened` does it.
    """

    join: Callable[[Guided, Asked], Guided]
    lacks: str = ""
    complete: "Callable[[Any], Guide] | None" = None
    wants: Any = None
    card: Card = field(default_factory=dict, repr=False, compare=False)


def shut(made: Guided, asked: Asked) -> Guided:
    """The join of a guide that lacks a file, which `guided` refuses before."""
    raise ValueError("this guide names a file that is not opened")


def adding(**parts: Any) -> Guide:
    """A guide that adds one part of a kind, whatever is asked for."""
    return Guide(lambda made, asked: more(made, **parts))


def more(made: Guided, **parts: Any) -> Guided:
    """With one more part of each of these kinds, after those that are there."""
    longer: dict[str, Any] = {kind: (*getattr(made, kind), part) for kind, part in parts.items()}
    return replace(made, **longer)


def guided(asked: Asked, guides: Sequence[Guide] = ()) -> Model:
    """The model with guidance; without guides and at scale 1, the model itself. Made anew for each batch: momentum has a memory."""
    made = Guided(asked.plain, float(asked.scale), asked.negative)
    for guide in guides:
        if guide.lacks:
            raise UserError(
                f"{guide.card.get('name')} names {guide.lacks}, which is not opened: reverie.systems.guides.opened does it"
            )
        made = guide.join(made, asked)
    if asked.negative is None and (made.scale != 1 or made.weigh):
        raise UserError("classifier-free guidance needs a negative condition: encode the empty prompt, or use scale 1")
    return made if guides or made.scale != 1 else asked.plain


def idle(guide: Guide, asked: Asked) -> bool:
    """Whether it changes only how far guidance goes, so that at scale 1 it does nothing."""
    if guide.lacks:
        return False
    made = guide.join(Guided(asked.plain), asked)
    return made.scale == 1 and not (made.weigh or made.terms or made.finish or made.still)


def step_of(grid: Tensor, t: Tensor) -> Tensor:
    """k (B,) of the step that t (B,) belongs to: grid_k >= t > grid_(k + 1), whatever the last bits of t; grid as of `Asked`."""
    knots = time(grid) if grid.ndim > 1 else time(grid)[:, None]
    return ((time(t) <= knots * (1 + NEAR)).sum(0) - 1).clamp(0, len(grid) - 2)
