"""A set of pictures, and what is known of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from reverie.data.sheet import sheet
from reverie.errors import UserError

Attributes = Mapping[str, str]
Caption = Callable[[int, np.random.Generator], str]


def skipped(problems: Sequence[str], most: int = 20) -> list[str]:
    """Lines for a person: how many problems, and what the first of them are; none where there are none."""
    if not problems:
        return []
    more = [f"... and {len(problems) - most} more"] if len(problems) > most else []
    return [f"problems with the pictures: {len(problems)}", *(f"skipped: {problem}" for problem in problems[:most]), *more]


@dataclass(frozen=True)
class Pictures:
    """N pictures of one size, in memory or memory-mapped.

    images: (N, C, H, W) uint8, C = 1 or 3. labels: (N,) int64, indices into `classes`.
    attributes: the ground truth of each picture, in plain names. caption: `caption(i, rng)` is a text for picture i, and may
    vary with the generator. problems: what was skipped when the set was read, and why, one line each.
    """

    name: str
    images: np.ndarray
    licence: str
    credit: str = ""
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    attributes: tuple[Attributes, ...] | None = None
    caption: Caption | None = None
    problems: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.uint8 or self.images.shape[1] not in (1, 3):
            raise ValueError(f"pictures are (N, 1 or 3, H, W) uint8, not {self.images.shape} {self.images.dtype}")

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Sequence[int] | np.ndarray) -> "Pictures":
        """The pictures of these rows, in this order."""
        rows = np.asarray(rows, dtype=np.int64)
        caption = self.caption
        return replace(
            self,
            images=self.images[rows],
            labels=None if self.labels is None else self.labels[rows],
            attributes=None if self.attributes is None else tuple(self.attributes[i] for i in rows),
            caption=None if caption is None else lambda i, rng: caption(int(rows[i]), rng),
        )

    def split(self, holdout: int) -> tuple["Pictures", "Pictures"]:
        """(training, held out): the last `holdout` of a fixed permutation are held out.

        Raises UserError where that leaves nothing to train on.
        """
        if not 0 <= holdout < len(self):
            raise UserError(f"cannot hold out {holdout} of {len(self)} pictures of {self.name}: hold out fewer.")
        order = np.random.default_rng(0).permutation(len(self))
        cut = len(self) - holdout
        return self.take(np.sort(order[:cut])), self.take(np.sort(order[cut:]))

    def pad(self, size: int, value: int = 0) -> "Pictures":
        """Every picture centred on `size` x `size` of the grey `value`. Raises UserError where one is larger."""
        *_, height, width = self.images.shape
        if max(height, width) > size:
            raise UserError(f"cannot pad {self.name} of {height}x{width} to {size}: choose a larger size.")
        top, left = (size - height) // 2, (size - width) // 2
        edges = ((0, 0), (0, 0), (top, size - height - top), (left, size - width - left))
        return replace(self, images=np.pad(self.images, edges, constant_values=value))

    def shrunk(self, factor: int) -> "Pictures":
        """Every picture smaller by a whole factor, of which its sides are multiples: the average of each square of pixels."""
        n, channels, height, width = self.images.shape
        squares = self.images.reshape(n, channels, height // factor, factor, width // factor, factor)
        small = [np.rint(row.mean((2, 4), dtype=np.float32)).astype(np.uint8) for row in squares]
        return replace(self, images=np.stack(small))

    def sheet(self, n: int = 64, seed: int = 0) -> Image.Image:
        """A contact sheet of `n` pictures drawn without repetition."""
        rows = np.random.default_rng(seed).permutation(len(self))[: min(n, len(self))]
        shape = (3, *self.images.shape[2:])
        pixels = (np.ascontiguousarray(np.broadcast_to(self.images[row], shape).transpose(1, 2, 0)) for row in rows)
        return sheet([Image.fromarray(p) for p in pixels], gap=2, ground=(200, 200, 200))
