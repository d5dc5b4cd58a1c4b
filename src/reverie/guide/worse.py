"""Guides away from something worse: s(t) (c - worse(x, t)).

- autoguidance: the same model, smaller or trained less (arXiv:2406.02507);
- perturbed attention: self-attention in which each place sees itself alone (arXiv:2403.17377, eq. 13);
- skipped layers: some blocks are left out (as Stable Diffusion 3.5 medium is sampled; arXiv:2411.18664 calls it STG).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reverie.card import remembers
from reverie.denoiser import Cond, Model
from reverie.errors import UserError
from reverie.guide.guidance import Asked, At, Guide, Guided, Term, more, shut, step_of
from reverie.guide.scheduled import heeding
from reverie.nets.looking import Attend, Look, Site, looking
from reverie.process.path import like


@dataclass(frozen=True)
class Hearing:
    """A model that has an encoder of its own: what it hears of the same words is not what another model hears.

    encode: what is asked -> its condition of that, or None.
    """

    model: Model
    encode: Callable[[Asked], Cond | None]


def away(worse: Model, strength: Callable[[Tensor], Tensor]) -> Term:
    """strength (t) (c - worse); where it is 0 for all, nothing is evaluated."""

    def term(at: At) -> Tensor | None:
        s = strength(at.t)
        return None if bool((s == 0).all()) else like(s, at.c) * (at.c - worse(at.x, at.t, at.cond))

    return term


def autoguide(weak: Any, scale: float = 2.0) -> Guide:
    """weak + scale (c - weak), beside other guidance; 1 = none. weak: a model, a `Hearing`, or the name of a model's file."""
    if isinstance(weak, str):
        card = {"name": "autoguide", "weak": weak, "scale": scale}
        return Guide(shut, weak, lambda found: autoguide(found, scale), Hearing, card)
    if not callable(getattr(weak, "model", weak)):
        raise UserError(f"autoguide: weak is a {type(weak).__name__}; give a model, or the name of a model's file")

    def join(made: Guided, asked: Asked) -> Guided:
        own = weak.encode(asked) if isinstance(weak, Hearing) else None
        model = asked.likewise(weak.model if isinstance(weak, Hearing) else weak)
        model = heeding(model, asked.grid) if own is not None and own.parts else model
        model = _Apart(model, own) if isinstance(weak, Hearing) else model
        times = torch.linspace(0.05, 1, 20, dtype=torch.float64)
        if not torch.allclose(model.path.lam(times), asked.plain.path.lam(times), atol=1e-3):
            raise UserError("autoguide: the weak model was trained on another process than the one it is to guide")
        return more(made, terms=away(model, lambda t: torch.full_like(t, scale - 1))) if scale != 1 else made

    return Guide(join)


@dataclass(frozen=True)
class _Apart:
    """A model under a condition of its own."""

    model: Model
    told: Cond | None

    @property
    def path(self) -> Any:
        return self.model.path

    def __call__(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        return self.model(x, t, self.told)


@remembers
def slg(layers: Sequence[int], scale: float = 2.8, start: float = 0.01, stop: float = 0.2) -> Guide:
    """Skip-layer guidance: scale (c - the model without these layers), from `start` to `stop`, which are shares of the steps.

    Layers are numbered from 0 as the net takes them; of a U-Net, its attentions. scale 0 is none.
    """
    check_steps("slg", start, stop)
    if any(isinstance(k, bool) or k < 0 for k in layers):
        raise UserError(f"slg: layers are {tuple(layers)}; they are numbered from 0")

    def join(made: Guided, asked: Asked) -> Guided:
        worse = Without(asked.plain, tuple(layers))
        return more(made, terms=away(worse, between(asked, scale, start, stop))) if layers and scale else made

    return Guide(join)


@remembers
def pag(scale: float = 3.0, sites: Sequence[int] | None = None, start: float = 0.0, stop: float = 1.0) -> Guide:
    """Perturbed-attention guidance: scale (c - the model whose self-attention is the identity). scale 0 is none.

    sites: which attentions, numbered from 0 as the net takes them, cross-attention among them; None = the middle one. Where
    pictures and words attend to each other, each place of the picture sees itself and the words.
    """
    check_steps("pag", start, stop)
    if any(isinstance(k, bool) or k < 0 for k in sites or ()):
        raise UserError(f"pag: sites are {tuple(sites or ())}; they are numbered from 0")

    def join(made: Guided, asked: Asked) -> Guided:
        worse = Perturbed(asked.plain, None if sites is None else tuple(sites))
        return made if not scale or worse.sites == () else more(made, terms=away(worse, between(asked, scale, start, stop)))

    return Guide(join)


def check_steps(name: str, start: float, stop: float) -> None:
    """UserError unless these are shares of the steps."""
    if not 0 <= start <= stop <= 1:
        raise UserError(f"{name}: start is {start} and stop {stop}; they are shares of the steps, 0 <= start <= stop <= 1")


def between(asked: Asked, scale: float, start: float, stop: float) -> Callable[[Tensor], Tensor]:
    """scale in the steps k with start n <= k < stop n, and 0 in the others; UserError where there is none."""
    n = len(asked.grid) - 1
    if not any(start * n <= k < stop * n for k in range(n)):
        raise UserError(f"no step of {n} lies from start {start} to stop {stop}, counted from 0: take more steps, or a larger stop")

    def strength(t: Tensor) -> Tensor:
        k = step_of(asked.grid, t)
        return torch.where((k >= start * n) & (k < stop * n), float(scale), 0.0).to(torch.float64)

    return strength


@dataclass(frozen=True)
class Without:
    """A model without some of its layers."""

    model: Model
    layers: tuple[int, ...]

    @property
    def path(self) -> Any:
        return self.model.path

    def __call__(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        with looking(skips=self.layers) as eyes:
            out = self.model(x, t, cond)
        if 0 < eyes.layers <= max(self.layers):
            raise UserError(f"slg: layer {max(self.layers)} is not there: this net has layers 0 to {eyes.layers - 1}")
        return out


class Perturbed:
    """A model in which the self-attention of some sites answers with the values themselves."""

    def __init__(self, model: Model, sites: tuple[int, ...] | None) -> None:
        self.model, self.sites = model, sites

    @property
    def path(self) -> Any:
        return self.model.path

    def __call__(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        if self.sites is None:
            seen: list[int] = []
            with looking(_counting(seen)):
                self.model(x, t, cond)  # all of it: pictures that follow others are drawn with them
            self.sites = (_known(seen)[len(seen) // 2],)
        changed: list[int] = []
        with looking(_identity(self.sites, changed)):
            out = self.model(x, t, cond)
        if missed := sorted(set(self.sites) - set(changed)):
            raise UserError(f"pag: {missed[0]} is no self-attention of this net that can be looked into: choose other sites")
        return out


def _known(seen: list[int]) -> list[int]:
    if not seen:
        raise UserError("pag: this net has no self-attention that can be looked into; where it is compiled, open it without")
    return seen


def _counting(seen: list[int]) -> Look:
    def look(site: Site, attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if site.kind != "cross":
            seen.append(site.index)
        return attend(q, k, v, mask)

    return look


def _identity(sites: Sequence[int], changed: list[int]) -> Look:
    def look(site: Site, attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if site.kind == "cross" or site.index not in sites or q.shape[2] != k.shape[2]:
            return attend(q, k, v, mask)
        changed.append(site.index)
        if site.kind == "self":
            return v
        alone = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
        alone[site.text :, site.text :] = torch.eye(q.shape[2] - site.text, dtype=torch.bool, device=q.device)
        return attend(q, k, v, alone if mask is None else mask & alone)

    return look
