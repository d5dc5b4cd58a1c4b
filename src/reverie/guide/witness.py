"""Guides by the gradient of what a witness says of noised points (arXiv:2105.05233, section 4).

By Bayes' rule the score of x_t given y is that of x_t plus grad log p(y | x_t); with score = (alpha x0 - x) / sigma^2,

    x0' = x0 + s sigma^2 / alpha grad log p(y | x_t)                                                               (1)

which is exact for s = 1 and an exact p. Where nothing is left of the data (alpha = 0) the witness is not asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from reverie.denoiser import Cond, Model
from reverie.errors import UserError
from reverie.guide.guidance import Asked, At, Guide, Guided, Term, more, shut
from reverie.process.path import Path, like


@runtime_checkable
class Witness(Protocol):
    """Says how likely what was asked for is of a noised point; `reverie.measure.noisy` has two."""

    def wanted(self, said: Sequence[Any]) -> Tensor:
        """What was asked for, one row per sample."""
        ...

    def log_prob(self, x: Tensor, t: Tensor, path: Path, wanted: Tensor) -> Tensor:
        """log p(wanted | x_t) (B,), up to what does not depend on x."""
        ...


def classifier(reader: Any, scale: float = 1.0, wanted: Any = "") -> Guide:
    """Classifier guidance. reader: a `Witness` (`reverie train fashion-classifier`), or the name of its file.

    wanted: the class, where it is not what the prompt says. Under --guidance 0 what is guided hears no prompt itself.
    """
    return _by("classifier", reader, scale, wanted)


def scored(scorer: Any, scale: float = 1.0, wanted: Any = "") -> Guide:
    """Guidance by a scorer of sentences that was trained on noised points (arXiv:2112.10741, section 2.4).

    scorer: a `Witness` (`reverie train avatars-scorer`), or the name of its file. wanted: the sentence, where it is not the prompt.
    """
    return _by("scored", scorer, scale, wanted)


def _by(name: str, witness: Any, scale: float, wanted: Any) -> Guide:
    if isinstance(witness, str):
        field = "reader" if name == "classifier" else "scorer"
        card = {"name": name, field: witness, "scale": scale, "wanted": wanted}
        return Guide(shut, witness, lambda found: _by(name, found, scale, wanted), Witness, card)
    if not isinstance(witness, Witness):
        raise UserError(
            f"{name}: this is a {type(witness).__name__}, which judges no noised points; give one that does, or its file"
        )

    def join(made: Guided, asked: Asked) -> Guided:
        said = tuple(map(asked.words, asked.said)) if wanted == "" else (wanted,) * len(asked.said)
        if not said or any(one == "" for one in said):
            raise UserError(f"{name}: nothing is asked for: give a prompt, or say it with wanted")
        return (
            made
            if not scale
            else more(made, terms=_term(asked.likewise(Slope(witness, asked.plain.path)), witness.wanted(said), scale))
        )

    return Guide(join)


@dataclass(frozen=True)
class Slope:
    """The gradient of log p(wanted | x_t) with respect to x_t, where a model has its estimate; `cond.vector` is what is wanted."""

    witness: Witness
    path: Path

    def __call__(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        assert cond is not None and cond.vector is not None
        kept = torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            x = x if kept else x.detach().requires_grad_()
            said = self.witness.log_prob(x, t, self.path, cond.vector)
            (out,) = torch.autograd.grad(said.sum(), x, create_graph=kept)
        return out


def _term(slope: Model, wanted: Tensor, scale: float) -> Term:
    def term(at: At) -> Tensor:
        alpha, sigma = at.path(at.t)
        grows = torch.where(alpha > 1e-6, scale * sigma**2 / alpha.clamp(min=1e-6), 0.0)
        return like(grows, at.x) * slope(at.x, at.t, Cond(vector=wanted))

    return term
