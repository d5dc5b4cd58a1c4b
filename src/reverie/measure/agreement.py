"""Whether pictures show what was asked for, as an independent reader sees it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from reverie.errors import UserError


class Reads(Protocol):
    """Says what pictures show: `Reader`, `ClassReader`."""

    values: Any
    """Attribute -> the names of what it can be."""

    def read(self, pictures: np.ndarray) -> Sequence[Mapping[str, str]]:
        """uint8 (N, C, H, W) -> the likeliest value of every attribute, for each picture."""
        ...


@dataclass(frozen=True)
class Agreement:
    """right and asked: how many of each attribute."""

    right: Mapping[str, int] = field(default_factory=dict)
    asked: Mapping[str, int] = field(default_factory=dict)

    @property
    def overall(self) -> float:
        """Share of all asked attributes that were read back right: every attribute asked counts once."""
        return sum(self.right.values()) / sum(self.asked.values())

    @property
    def each(self) -> dict[str, float]:
        """The same, attribute by attribute."""
        return {name: self.right[name] / n for name, n in self.asked.items()}


def agreement(
    asked: Sequence[Mapping[str, str]],
    read: Sequence[Mapping[str, str]],
    known: Mapping[str, Sequence[str]] | None = None,
) -> Agreement:
    """What was asked of each picture against what was read in it; both may name more than the other.

    An asked attribute that the reader has no head for is not counted (`known` = the reader's values; without it, all that was
    read). Raises UserError where the counts differ or nothing that was asked can be read.
    """
    if len(asked) != len(read):
        raise UserError(f"{len(asked)} pictures were asked for but {len(read)} were read: give one list of attributes per picture")
    right: dict[str, int] = {}
    count: dict[str, int] = {}
    for wanted, found in zip(asked, read, strict=True):
        for name, value in wanted.items():
            if name in (found if known is None else known):
                count[name] = count.get(name, 0) + 1
                right[name] = right.get(name, 0) + (found.get(name) == value)
    if not count:
        raise UserError("nothing that was asked for is among what the reader reads: use the reader of this kind of pictures")
    return Agreement(right, count)


def shown(pictures: np.ndarray, asked: Sequence[Mapping[str, str]], reader: Reads) -> Agreement:
    """Agreement of pictures uint8 (N, C, H, W) with what was asked of each."""
    return agreement(asked, reader.read(pictures), reader.values)
