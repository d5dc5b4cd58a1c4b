"""Noise laws: what n is in x_t = alpha(t) x_0 + sigma(t) n.

A law draws n of a given shape from per-sample streams, and says whether it is Gaussian: a posterior step with eta > 0 needs it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from reverie.card import Card, remembers
from reverie.errors import UserError
from reverie.rng import Rng


@dataclass(frozen=True)
class NoiseLaw:
    """draw(shape, rng) -> (B, ...) noise of unit scale."""

    draw: Callable[[Sequence[int], Rng], Tensor]
    gaussian: bool
    card: Card = field(default_factory=dict, compare=False, repr=False)

    def __call__(self, shape: Sequence[int], rng: Rng) -> Tensor:
        return self.draw(shape, rng)


@remembers
def gaussian() -> NoiseLaw:
    """n ~ N(0, I)."""
    return NoiseLaw(lambda shape, rng: rng.normal(shape), gaussian=True)


@remembers
def offset(strength: float = 0.1) -> NoiseLaw:
    """n = z + strength * z_c with one z_c per channel: lets a model shift the mean colour (used for SDXL)."""
    if not 0 <= strength <= 100:
        raise UserError(f"offset: strength is {strength}; it must lie between 0 and 100")

    def draw(shape: Sequence[int], rng: Rng) -> Tensor:
        mean = rng.fold("offset").normal((shape[0], shape[1]))
        return rng.normal(shape) + strength * mean.reshape(*mean.shape, *[1] * (len(shape) - 2))

    return NoiseLaw(draw, gaussian=False)


@remembers
def student_t(dimensions: float) -> NoiseLaw:
    """n = z sqrt(D / chi2_D), one radius per sample: PFGM++ (arXiv 2302.04265); D -> infinity is Gaussian."""
    if not 0.1 <= dimensions <= 1e15:
        raise UserError(f"student_t: dimensions is {dimensions}; it must lie between 0.1 and 1e15")

    def draw(shape: Sequence[int], rng: Rng) -> Tensor:
        scale = (dimensions / rng.fold("radius").chi2(dimensions, shape[:1])).sqrt()
        return rng.normal(shape) * scale.reshape(-1, *[1] * (len(shape) - 1))

    return NoiseLaw(draw, gaussian=False)
