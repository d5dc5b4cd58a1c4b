"""What can be taken from pictures, for nets that learn to give it back (Palette, arXiv:2111.05826; SR3, arXiv:2104.07636).

A damage is a named constructor that gives a function of pixels (B, C, H, W) in [-1, 1] and a generator: the damaged pixels, and a
plane (B, 1, H, W). The plane is 1 where a picture has a hole, or holds the deviation of noise that was put on a small picture
(conditioning augmentation, arXiv:2106.15282, section 4.2); else it is 0.
"""

import io
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from reverie.card import parse, rebuild, remembers
from reverie.errors import UserError

LUMA = (0.299, 0.587, 0.114)
"""Brightness of red, green and blue, by ITU-R BT.601, as JPEG and Pillow have it."""
Damage = Callable[[Tensor, np.random.Generator], tuple[Tensor, Tensor]]


@remembers
def grey() -> Damage:
    """Without colours."""
    return lambda x, rng: (to_grey(x), _nothing(x))


def to_grey(x: Tensor) -> Tensor:
    """Brightness, in every channel."""
    weights = x.new_tensor(LUMA)[:, None, None] if x.shape[1] == 3 else x.new_ones(1, 1, 1) / x.shape[1]
    return (x * weights).sum(1, keepdim=True).expand_as(x)


@remembers
def jpeg(least: int = 5, most: int = 40) -> Damage:
    """Stored as JPEG, of a quality between these."""
    if not 1 <= least <= most <= 95:
        raise UserError(f"jpeg: least is {least} and most {most}; 1 <= least <= most <= 95")

    def damage(x: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        return torch.stack([stored(one, int(rng.integers(least, most + 1))) for one in x]), _nothing(x)

    return damage


def stored(x: Tensor, quality: int) -> Tensor:
    """One picture (C, H, W) as a JPEG of this quality has it."""
    levels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(levels[..., 0] if x.shape[0] == 1 else np.ascontiguousarray(levels)).save(file, "JPEG", quality=quality)
    back = np.array(Image.open(file))
    return torch.from_numpy(back.reshape(*back.shape[:2], -1)).permute(2, 0, 1).to(x) / 127.5 - 1


@remembers
def hole(least: float = 0.25, most: float = 0.6) -> Damage:
    """A box is missing, whose sides are such shares of the picture's."""
    _shares("hole", least, most)
    return lambda x, rng: opened(x, torch.stack([_box(x, rng, least, most) for _ in x]))


@remembers
def uncrop(least: float = 0.4, most: float = 0.8) -> Damage:
    """Only a box is there, whose sides are such shares of the picture's."""
    _shares("uncrop", least, most)
    return lambda x, rng: opened(x, 1 - torch.stack([_box(x, rng, least, most) for _ in x]))


def opened(x: Tensor, plane: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels with a grey hole where the plane is 1."""
    return x * (1 - plane), plane


@remembers
def small(factor: int = 2, noise: float = 0.3) -> Damage:
    """Smaller by a factor and enlarged again, with noise of a deviation up to `noise`."""
    if factor < 2 or not 0 <= noise <= 2:
        raise UserError(f"small: factor is {factor} and noise {noise}; factor is 2 or more, noise between 0 and 2")

    def damage(x: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        level = torch.from_numpy(rng.random((len(x), 1, 1, 1)) * noise).to(x)
        return noised(enlarged(F.avg_pool2d(x, factor), factor), level, rng)

    return damage


def enlarged(x: Tensor, factor: int) -> Tensor:
    """(B, C, H, W) -> (B, C, factor H, factor W), bicubic."""
    return F.interpolate(x, scale_factor=float(factor), mode="bicubic").clamp(-1, 1)


def noised(x: Tensor, level: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Pixels with noise of the deviation level (B, 1, 1, 1), and the plane that says so."""
    n = torch.from_numpy(rng.standard_normal(x.shape)).to(x)
    return x + level * n, level.expand(-1, 1, *x.shape[2:])


DAMAGES = (grey, jpeg, hole, uncrop, small)


def drawn(names: Sequence[str]) -> Damage:
    """One of several damages for each picture."""
    kinds = [rebuild(parse(name), DAMAGES, "damage") for name in names]

    def damage(x: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        which = rng.integers(len(kinds), size=len(x))
        every = [kinds[k](x[i : i + 1], rng) for i, k in enumerate(which)]
        return torch.cat([pixels for pixels, _ in every]), torch.cat([plane for _, plane in every])

    return damage


def _nothing(x: Tensor) -> Tensor:
    return x.new_zeros(len(x), 1, *x.shape[2:])


def _shares(name: str, least: float, most: float) -> None:
    if not 0 < least <= most < 1:
        raise UserError(f"{name}: least is {least} and most {most}; 0 < least <= most < 1")


def _box(x: Tensor, rng: np.random.Generator, least: float, most: float) -> Tensor:
    """(1, H, W), 1 in a box."""
    plane = x.new_zeros(1, *x.shape[2:])
    sides = [max(1, round(n * float(rng.uniform(least, most)))) for n in x.shape[2:]]
    top, left = (int(rng.integers(n - side + 1)) for n, side in zip(x.shape[2:], sides, strict=True))
    plane[:, top : top + sides[0], left : left + sides[1]] = 1
    return plane
