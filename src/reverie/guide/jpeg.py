"""What a JPEG file keeps of a picture, as a linear operator with noise (ITU-T T.81; colours as in JFIF).

Brightness and two planes of colour are cut into blocks of 8x8, each is written as cosines, and each number c as round(c / q), with
q from a table. That rounding has no derivative; but within its step a number may be anything, and an even distribution over a
step has the variance q^2 / 12. So A is the cosine transform, y what the file's numbers stand for, q^2 / 12 + noise^2 its variance.
"""

import io
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image, JpegImagePlugin
from torch import Tensor

from reverie.card import remembers
from reverie.data.damages import LUMA
from reverie.errors import UserError
from reverie.guide.operators import Operator

YCBCR = (LUMA, (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
"""RGB to brightness and colours."""
ORIENTATION, ASIDE = 0x0112, (5, 6, 7, 8)
"""The tag of EXIF that says how a picture was held, and its values that exchange rows and columns."""
UNIT = 127.5
"""Levels in a unit of x."""
Tables = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Jpeg(Operator):
    """y (B, N): the cosines of brightness, then of colours, plane by plane, in units of x.

    tables: of brightness and of colours, 64 steps each, row by row, in levels. chroma: pixels that share a colour, each way.
    shape: (C, H, W) of x. What is missing of a last block is its last row and column again.
    """

    tables: Tables = ()
    chroma: int = 2
    shape: tuple[int, int, int] = (0, 0, 0)

    def told(self, shape: tuple[int, int, int], mask: Tensor | None = None, image: Any = None) -> Operator:
        super().told(shape, mask, image)
        if self.tables:
            return replace(self, shape=shape)
        found = getattr(image, "quantization", None)
        if not found:
            raise UserError("this picture is no JPEG file, so say how it was made, as jpeg(quality=20)")
        tables = _tables(found)
        if image.getexif().get(ORIENTATION) in ASIDE:  # the picture is seen turned: rows of the file are its columns
            tables = tuple(tuple(t[8 * (k % 8) + k // 8] for k in range(64)) for t in tables)
        return replace(self, shape=shape, tables=tables, chroma=_chroma(image))

    @property
    def planes(self) -> list[tuple[int, int]]:
        """(H, W) of each, whole blocks."""
        c, *sides = self.shape
        colour = [_up(n, 8 * self.chroma) // self.chroma for n in sides]
        return [(_up(sides[0], 8), _up(sides[1], 8)), *[(colour[0], colour[1])] * (2 if c == 3 else 0)]

    @property
    def steps(self) -> Tensor:
        """q (N,) float64, in units of x."""
        kinds = (self.tables[0], self.tables[-1], self.tables[-1])
        each = (torch.tensor(q).reshape(8, 8).repeat(h // 8, w // 8) for (h, w), q in zip(self.planes, kinds, strict=False))
        return torch.cat([steps.flatten() for steps in each]).double() / UNIT

    def __call__(self, x: Tensor) -> Tensor:
        planes = [x]
        if x.shape[1] == 3:
            y, colours = _coloured(x, YCBCR).split((1, 2), 1)
            colours = F.avg_pool2d(_whole(colours, 8 * self.chroma), self.chroma)
            planes = [y, *colours.split(1, 1)]
        return torch.cat([_cosines(_whole(plane, 8)).flatten(1) for plane in planes], 1)

    def read(self, picture: Tensor) -> Tensor:
        exact = picture.double()
        if self.shape[0] == 3 and self.chroma == 2:
            exact = _sharp(exact)
        shift = torch.zeros(len(self.steps), dtype=torch.float64)  # a file counts from level 128, which is 0.5 above the middle
        shift[: math.prod(self.planes[0])] = _cosines(torch.full((1, 1, *self.planes[0]), 0.5 / UNIT).double()).flatten()
        return (((self(exact) - shift) / self.steps).round() * self.steps + shift).to(picture)

    def variance(self, y: Tensor, noise: float) -> Tensor:
        return (noise**2 + self.steps**2 / 12).to(y).expand(len(y), -1)

    def back(self, y: Tensor) -> Tensor:
        c, h, w = self.shape
        parts = y.split([math.prod(shape) for shape in self.planes], 1)
        planes = [_cosines(v.reshape(-1, 1, *p), inverse=True) for v, p in zip(parts, self.planes, strict=True)]
        planes[1:] = [p.repeat_interleave(self.chroma, 2).repeat_interleave(self.chroma, 3) for p in planes[1:]]
        x = torch.cat([p[..., :h, :w] for p in planes], 1)
        return x if c == 1 else _coloured(x, _rgb())

    def agree(self, x: Tensor, y: Tensor) -> Tensor:
        half, seen = (self.steps / 2).to(x), self(x)
        y = y.to(x)
        return x + self.back(torch.minimum(torch.maximum(seen, y - half), y + half) - seen)


@remembers
def jpeg(quality: int = 0, chroma: int = 2) -> Operator:
    """A JPEG file, with Pillow's tables for this quality; 0 = as the picture's own file says.

    chroma: colours are kept at every pixel (1, 4:4:4) or at every second each way (2, 4:2:0, as in most files).
    """
    if not 0 <= quality <= 95:
        raise UserError(f"jpeg: quality is {quality}; it lies between 1 and 95, and 0 is that of the picture's own file")
    if chroma not in (1, 2):
        raise UserError(f"jpeg: chroma is {chroma}; colours are kept at every pixel (1) or at every second each way (2)")
    return Jpeg(_written(quality) if quality else (), chroma)


@lru_cache
def _written(quality: int) -> Tables:
    """The tables that Pillow writes."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
    written: Any = Image.open(file)
    return _tables(written.quantization)


def _tables(found: dict[int, Any]) -> Tables:
    return tuple(tuple(found[k]) for k in sorted(found))[:2]


def _chroma(image: Any) -> int:
    kind = JpegImagePlugin.get_sampling(image) if len(getattr(image, "layer", ())) == 3 else 0
    if kind not in (0, 2):
        raise UserError("this JPEG file keeps colours in a way that jpeg() does not know (4:2:2): save it as 4:4:4 or 4:2:0")
    return 1 if kind == 0 else 2


@lru_cache
def _dct() -> Tensor:
    """(8, 8) float64, orthonormal: row k is the k-th cosine."""
    k = torch.arange(8, dtype=torch.float64)
    rows = torch.cos(math.pi / 8 * k[:, None] * (k + 0.5)) / 2
    rows[0] /= math.sqrt(2)
    return rows


def _cosines(plane: Tensor, inverse: bool = False) -> Tensor:
    """Of each block of (B, 1, H, W), in its place; or back."""
    rows, (_, _, h, w) = _dct().to(plane), plane.shape
    rows = rows.T if inverse else rows
    blocks = plane.reshape(-1, h // 8, 8, w // 8, 8)
    return torch.einsum("ki,bminj,lj->bmknl", rows, blocks, rows).reshape(plane.shape)


def _coloured(x: Tensor, matrix: Any) -> Tensor:
    return torch.einsum("kc,bchw->bkhw", torch.as_tensor(matrix).to(x), x)


def _rgb() -> Tensor:
    return torch.linalg.inv(torch.tensor(YCBCR, dtype=torch.float64))


def _up(n: int, step: int) -> int:
    return -(-n // step) * step


def _whole(plane: Tensor, step: int) -> Tensor:
    h, w = plane.shape[2:]
    return F.pad(plane, (0, _up(w, step) - w, 0, _up(h, step) - h), mode="replicate")


def _sharp(picture: Tensor) -> Tensor:
    """A decoded picture, its colours such that their means of 2x2 are those of the file.

    A decoder enlarges colours with weights 3/4 and 1/4 along each side, so that means of 2x2 of what it wrote are the file's with
    weights 1/8, 3/4 and 1/8 (7/8 and 1/8 at an edge): solved along both sides.
    """
    y, colours = _coloured(picture, YCBCR).split((1, 2), 1)
    means = F.avg_pool2d(_whole(colours, 2), 2)
    rows, columns = (_mixing(n).to(means) for n in means.shape[2:])
    means = torch.linalg.solve(columns, torch.linalg.solve(rows, means).mT).mT
    large = means.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., : picture.shape[2], : picture.shape[3]]
    return _coloured(torch.cat([y, large], 1), _rgb())


def _mixing(n: int) -> Tensor:
    beside = torch.full((n - 1,), 0.125, dtype=torch.float64)
    made = torch.diag(beside, 1) + torch.diag(beside, -1)
    return made + torch.diag(1 - made.sum(1))
