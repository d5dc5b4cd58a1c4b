"""What was done to a picture before it was seen: linear maps with noise, y = A x + n.

x (B, C, H, W) in [-1, 1] is the picture that is looked for, n the noise of the measurement. An operator says A, differentiable, so
that its adjoint is a backward pass. What is quantised to a step q is off by q / sqrt(12) in the mean, which is a part of the noise.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.card import Card, remembers
from reverie.data.damages import LUMA
from reverie.errors import UserError

LEVEL = 2 / 255
"""One level of eight bits."""
ROUNDS, HALVINGS = 50, 40
"""Of the search for a picture that agrees and lies within the range."""


@dataclass(frozen=True)
class Operator:
    """The identity, and what others change of it."""

    card: Card = field(default_factory=dict, repr=False, compare=False, kw_only=True)

    def __call__(self, x: Tensor) -> Tensor:
        """A x (B, ...)."""
        return x

    def told(self, shape: tuple[int, int, int], mask: Tensor | None = None, image: Any = None) -> "Operator":
        """The same, knowing what it was seen as: (C, h, w), a mask (1, 1, h, w) where white is unknown, and the file."""
        if mask is not None:
            raise UserError(f"a mask says which places are known, and {self.card['name']} looks at all of them: leave it out")
        return self

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Of x, where the picture seen has this."""
        return height, width

    def read(self, picture: Tensor) -> Tensor:
        """y, from the picture (B, C, h, w) in [-1, 1] that it was seen as."""
        return picture

    def variance(self, y: Tensor, noise: float) -> Tensor:
        """Of the noise of y; (B, ...) broadcasts to it. noise: its deviation, to which comes the rounding to eight bits."""
        return torch.full((len(y), *[1] * (y.ndim - 1)), noise**2 + LEVEL**2 / 12)

    def back(self, y: Tensor) -> Tensor:
        """A picture (B, C, H, W) that y may be of, without a model: A back(y) = y, but for `blur`."""
        return y

    def agree(self, x: Tensor, y: Tensor) -> Tensor:
        """The picture next to x with A x = y; of what was rounded, of those that would have been rounded so."""
        return y

    def within(self, x: Tensor, y: Tensor) -> Tensor:
        """A picture in [-1, 1] near x with A x = y: one that agrees and one in the range by turns; where there is none, near it."""
        x = self.agree(x, y).clamp(-1, 1)
        for _ in range(ROUNDS):
            agreed = self.agree(x, y)
            if bool(((agreed - x).abs() < LEVEL / 8).all()):
                break
            x = agreed.clamp(-1, 1)
        return x


@remembers
def identity() -> Operator:
    """The picture itself, with noise on it."""
    return Operator()


@dataclass(frozen=True)
class Mask(Operator):
    """known (1, 1, H, W): 1 where the picture is known; y is 0 elsewhere."""

    known: Tensor | None = None

    def told(self, shape: tuple[int, int, int], mask: Tensor | None = None, image: Any = None) -> Operator:
        if mask is None:
            raise UserError("mask() needs a mask: white is what is unknown, black is what is known")
        if not bool((mask == 0).any()):
            raise UserError("the mask has no black place, so that nothing of the picture is known: paint black what is")
        return replace(self, known=(mask == 0).float())

    def __call__(self, x: Tensor) -> Tensor:
        return x * self._known(x)

    def _known(self, x: Tensor) -> Tensor:
        if self.known is None:
            raise ValueError("mask() has not been told which places are known")
        return self.known.to(x)

    def read(self, picture: Tensor) -> Tensor:
        return self(picture)

    def agree(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.where(self._known(x) > 0, y.to(x), x)


@remembers
def mask() -> Operator:
    """The places of the picture that are black in a mask."""
    return Mask()


@dataclass(frozen=True)
class Downsample(Operator):
    """Means of factor x factor pixels. A A^T = 1 / factor^2."""

    factor: int = 4

    def __call__(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.factor)

    def size(self, height: int, width: int) -> tuple[int, int]:
        return height * self.factor, width * self.factor

    def back(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.factor, 2).repeat_interleave(self.factor, 3)

    def agree(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.back(y.to(x) - self(x))

    def within(self, x: Tensor, y: Tensor) -> Tensor:
        return _nearest(self, x, y)


@remembers
def downsample(factor: int = 4) -> Operator:
    """Means of factor x factor pixels, a smaller picture."""
    if not 2 <= factor <= 64:
        raise UserError(f"downsample: factor is {factor}; it is a whole number from 2 to 64")
    return Downsample(factor)


@dataclass(frozen=True)
class Blur(Operator):
    """A Gaussian of deviation sigma, in pixels, cut at 4 sigma; beyond an edge the picture is its own mirror image.

    No inverse finds what a blur hides in noise, so that `back` is what was seen, and `agree` leaves x as it is.
    """

    sigma: float = 1.5

    def __call__(self, x: Tensor) -> Tensor:
        for side in (2, 3):
            reach = min(math.ceil(4 * self.sigma), x.shape[side] - 1)
            kernel = torch.exp(-(torch.arange(-reach, reach + 1, dtype=torch.float64) ** 2) / (2 * self.sigma**2))
            weight = (kernel / kernel.sum()).to(x).reshape(1, 1, *((-1, 1) if side == 2 else (1, -1)))
            edges = (0, 0, reach, reach) if side == 2 else (reach, reach, 0, 0)
            wide = F.pad(x, edges, mode="reflect")
            x = F.conv2d(wide.flatten(0, 1)[:, None], weight)[:, 0].unflatten(0, x.shape[:2])
        return x

    def agree(self, x: Tensor, y: Tensor) -> Tensor:
        return x


@remembers
def blur(sigma: float = 1.5) -> Operator:
    """A Gaussian of deviation sigma, in pixels."""
    if not 0 < sigma <= 50:
        raise UserError(f"blur: sigma is {sigma}; it is a number of pixels, above 0 and at most 50")
    return Blur(float(sigma))


@dataclass(frozen=True)
class Grey(Operator):
    """The brightness y (B, 1, H, W) of a picture in colours."""

    def told(self, shape: tuple[int, int, int], mask: Tensor | None = None, image: Any = None) -> Operator:
        if shape[0] != 3:
            raise UserError("grey() is the brightness of pictures in colours, and this model draws none in colours")
        return super().told(shape, mask, image)

    def __call__(self, x: Tensor) -> Tensor:
        return (x * x.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)

    def read(self, picture: Tensor) -> Tensor:
        return self(picture)

    def back(self, y: Tensor) -> Tensor:
        return y.expand(-1, 3, -1, -1)

    def agree(self, x: Tensor, y: Tensor) -> Tensor:
        weights = x.new_tensor(LUMA)[:, None, None]
        return x + weights / weights.square().sum() * (y.to(x) - self(x))

    def within(self, x: Tensor, y: Tensor) -> Tensor:
        return _nearest(self, x, y)


def _nearest(operator: Operator, x: Tensor, y: Tensor) -> Tensor:
    """The picture in [-1, 1] next to x with A x = y, where each number of y is a mean of numbers of x that no other is of.

    That is clip(x + s A^T), s for each number of y: the more s, the more the mean, so that halving finds it.
    """
    unit = operator.agree(x, operator(x) + 1) - x
    high = operator.back(torch.ones_like(operator(x))) * (1 + x.abs().max()) / unit.min()
    low = -high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        less = operator.back(operator((x + middle * unit).clamp(-1, 1)) < y.to(x))
        low, high = torch.where(less, middle, low), torch.where(less, high, middle)
    return (x + high * unit).clamp(-1, 1)


@remembers
def grey() -> Operator:
    """The brightness of a picture: its colours are to be found."""
    return Grey()
