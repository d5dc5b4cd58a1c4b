"""One table: a model between its floor (other real pictures) and its ceiling (noise), all measured alike."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from reverie.measure.distances import copy_limit, frechet, kid, nearer, precision_recall
from reverie.measure.features import Features, thumbnails


@dataclass(frozen=True)
class Row:
    """n: pictures measured. kid: x 1000, the mean over subsets. None: not measured."""

    name: str
    n: int
    kid: float
    frechet: float
    precision: float
    recall: float
    agreement: float | None
    copies: float | None
    nfe: float | None = None
    seconds: float | None = None
    note: str = ""
    """What must be known of the agreement, or why there is none."""


class Yardstick:
    """What everything is measured against, made ready once.

    reference: real pictures uint8 (N, C, H, W). seen: all that the model was trained on, and some that it was not, to tell copies
    by; without them copies are not measured.
    """

    def __init__(self, features: Features, reference: np.ndarray, seen: tuple[np.ndarray, np.ndarray] | None = None) -> None:
        self.features, self.small = features, thumbnails()
        self.reference = features(reference)
        self.seen = None if seen is None else (self.small(seen[0]), self.small(seen[1]))
        self.limit = 0.0 if self.seen is None else copy_limit(*self.seen)

    def row(self, name: str, pictures: np.ndarray, agreement: float | None = None, **more: Any) -> Row:
        """All distances of some pictures, uint8 (N, C, H, W)."""
        copied = None if self.seen is None else nearer(self.small(pictures), self.seen[0], self.limit)
        return self._row(name, pictures, agreement, copied, **more)

    def real(self, pictures: np.ndarray, agreement: float | None = None) -> Row:
        """The floor: real pictures that are not of the reference. Its copies are those of the held pictures, 5 % by definition."""
        copied = None if self.seen is None else nearer(self.seen[1], self.seen[0], self.limit)
        return self._row("real", pictures, agreement, copied)

    def _row(self, name: str, pictures: np.ndarray, agreement: float | None, copied: float | None, **more: Any) -> Row:
        found = self.features(pictures)
        precision, recall = precision_recall(self.reference, found)
        apart = 1000 * kid(self.reference, found)[0]
        return Row(name, len(pictures), apart, frechet(self.reference, found), precision, recall, agreement, copied, **more)


def noise(like: np.ndarray, seed: int = 0) -> np.ndarray:
    """The ceiling: as many pictures of nothing, uint8: Gaussian, of deviation 1 in [-1, 1], cut at the ends."""
    normal = np.random.default_rng(seed).standard_normal(like.shape, np.float32)
    return ((normal.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)


COLUMNS = {
    "n": "{:d}", "kid": "{:.2f}", "frechet": "{:.2f}", "precision": "{:.2f}", "recall": "{:.2f}", "agreement": "{:.1%}",
    "copies": "{:.1%}", "nfe": "{:.0f}", "seconds": "{:.2f}",
}  # fmt: skip
TITLES = {"kid": "KID x1000", "frechet": "Frechet", "nfe": "NFE", "seconds": "s/picture"}


def table(rows: Sequence[Row]) -> str:
    """Plain text, columns aligned; "-" where nothing was measured; then what is noted of the rows, once each."""
    cells = [["", *(TITLES.get(name, name) for name in COLUMNS)]]
    for row in rows:
        values = asdict(row)
        cells.append([row.name, *("-" if values[k] is None else form.format(values[k]) for k, form in COLUMNS.items())])
    return "\n".join([aligned(cells), *dict.fromkeys(row.note for row in rows if row.note)])


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Rows of words as columns: the first flush left, the others right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join([first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=True))]) for first, *rest in cells
    ]
    return "\n".join(line.rstrip() for line in lines)
