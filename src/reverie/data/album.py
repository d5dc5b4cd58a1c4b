"""Pictures to learn from, of several sizes, with those that are not to be forgotten; and the record of what they are.

An album is what personalisation trains on: a folder, kohya's folders that are named for their repeats, or a data set in kohya's
TOML (`kohya.py`). Its hashes are of content alone: the same pictures and captions have the same record wherever they lie.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reverie.data.captions import HOLE, Saying
from reverie.data.kohya import TOML, read_toml
from reverie.data.shapes import Shapes, Size
from reverie.data.subsets import Shot, Subset, subsets_in
from reverie.errors import UserError

MOST_RECORDED = 200  # pictures whose hashes stand in a record one by one


@dataclass(frozen=True, kw_only=True)
class Choices:
    """How pictures are seen where the data set says nothing itself."""

    buckets: bool = False
    """Pictures keep their shapes: they are sorted into sizes of near-equal area, not cut to a square."""
    flip: bool = False
    """Half of the time a picture is seen mirrored, left for right."""
    shuffle: bool = False
    """The tags of a caption, parted by commas, come in another order each time."""
    keep: int = 0
    """So many tags stay in front."""
    drop: float = 0.1
    """Share of captions replaced by the empty one."""
    regular: str = ""
    """A folder of pictures of what the model is not to forget (prior preservation)."""
    regular_caption: str = HOLE
    """What is said of each of them, its own caption in place of {}."""
    regular_weight: float = 1.0
    """Weight of their loss."""
    regular_share: float = 0.5
    """Their share of every batch."""

    def __post_init__(self) -> None:
        for name in ("drop", "regular_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name.replace('_', ' ')} is {getattr(self, name)}; it is a share, at least 0 and at most 1")
        if not 0 <= self.regular_weight <= 1e6:
            raise UserError(f"regular weight is {self.regular_weight}; it must be at least 0 and at most 1e6")


@dataclass(frozen=True, kw_only=True)
class Album:
    """shots: what is learnt. regular: what is not to be forgotten. problems: what was skipped or is not heeded, one line each."""

    name: str
    shots: tuple[Shot, ...]
    regular: tuple[Shot, ...] = ()
    licence: str = "as its owner says"
    credit: str = ""
    problems: tuple[str, ...] = ()
    attributes: None = None

    def __len__(self) -> int:
        return len(self.shots)

    @property
    def sizes(self) -> list[Size]:
        """Heights and widths, from tall to wide."""
        every = {shot.size for shot in (*self.shots, *self.regular)}
        return sorted(every, key=lambda s: (s[1] / s[0], s))

    def split(self, holdout: int) -> tuple["Album", "Album"]:
        """(training, held out): of pictures whose subset says no share of its own, `holdout`; of what is regular, nothing.

        The last of a fixed permutation are held out. UserError where that leaves nothing to train on.
        """
        kept: list[int] = []
        for share in dict.fromkeys(shot.held for shot in self.shots):
            rows = np.array([k for k, shot in enumerate(self.shots) if shot.held == share])
            cut = len(rows) - (min(holdout, len(rows)) if share is None else round(share * len(rows)))
            kept += rows[np.random.default_rng(0).permutation(len(rows))[:cut]].tolist()
        if not kept:
            raise UserError(f"cannot hold out {len(self)} of {len(self)} pictures of {self.name}: hold out fewer.")
        shown = set(kept)
        train = tuple(shot for k, shot in enumerate(self.shots) if k in shown)
        held = tuple(shot for k, shot in enumerate(self.shots) if k not in shown)
        return replace(self, shots=train), replace(self, shots=held, regular=())

    def matched(self) -> "Album":
        """The same with regular pictures in the sizes of the others alone, so many in each as its share of what is learnt.

        In the order of their shapes, so that they are cut as little as that allows; a size that none falls to has the nearest.
        """
        if not self.regular:
            return self
        rows = {size: sum(shot.repeats for shot in self.shots if shot.size == size) for size in self.sizes}
        edges = np.cumsum([0, *(count for count in rows.values() if count)]) / sum(rows.values())
        shots = sorted(self.regular, key=lambda shot: shot.size[1] / shot.size[0])
        ends = np.cumsum([shot.repeats for shot in shots])
        middles = (ends - np.array([shot.repeats for shot in shots]) / 2) / ends[-1]
        out = []
        for size, low, high in zip([s for s, count in rows.items() if count], edges[:-1], edges[1:], strict=True):
            inside = np.flatnonzero((middles >= low) & (middles < high))
            chosen = inside if len(inside) else [int(np.abs(middles - (low + high) / 2).argmin())]
            out += [shots[k] if shots[k].size == size or shots[k].cut is None else shots[k].cut(size) for k in chosen]  # type: ignore[misc]
        return replace(self, regular=tuple(out))

    def record(self) -> dict[str, Any]:
        """What it was: the hash of all, and of each picture and its caption where they are few. No names, no paths.

        The hash of all is that of the sorted lines "picture caption repeats kind" of its pictures, in SHA-256.
        """
        lines = sorted(
            f"{shot.picture} {shot.words or '-'} {shot.repeats} {kind}"
            for kind, shots in (("own", self.shots), ("regular", self.regular))
            for shot in shots
        )
        whole = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        few = {"pictures": [line.split(" ") for line in lines]} if len(lines) <= MOST_RECORDED else {}
        return {"count": len(self.shots), "regular": len(self.regular), "sha256": whole, **few}


def gather(subsets: Sequence[Subset], name: str, notes: Sequence[str] = ()) -> Album:
    """The pictures of these folders. UserError where one is not there, or none has a picture that can be used."""
    problems, own, regular = list(notes), list[Shot](), list[Shot]()
    for subset in subsets:
        (regular if subset.regular else own).extend(subset.shots(problems))
    for kind, shots in ((False, own), (True, regular)):
        places = [str(subset.folder) for subset in subsets if subset.regular is kind]
        if (places or not kind) and not shots:
            first = f" The first of {len(problems)} problems: {problems[0]}." if problems else ""
            raise UserError(f"no picture in {', '.join(places) or name} can be used: put PNG, JPEG or WebP files there.{first}")
    return Album(name=name, shots=tuple(own), regular=tuple(regular), problems=tuple(problems))


def open_album(data: str, size: Size, step: int = 1, choices: Choices | None = None, caption: str = HOLE) -> Album:
    """The pictures of a folder, or of a data set in TOML, in sizes whose sides are multiples of `step`.

    size: height and width, where the data set says no resolution of its own. caption: the template of all that is not regular.
    UserError where there is no such place, or nothing in it can be used.
    """
    choices = choices or Choices()
    if not data:
        raise UserError("no pictures are named: give their folder, or a data set in TOML, with --data")
    place = Path(data)
    shapes = Shapes(size=size, buckets=choices.buckets, step=step)
    whole = Subset(
        folder=place,
        shapes=shapes,
        saying=Saying(shuffle=choices.shuffle, keep=choices.keep, template=caption),
        flip=choices.flip,
    )
    notes: Sequence[str] = ()
    if place.suffix.lower() == TOML:
        subsets, notes = read_toml(place, whole)
        name = place.stem
    else:
        folder_named(place)
        subsets, name = subsets_in(whole), place.resolve().name
    if choices.regular:
        folder_named(Path(choices.regular))
        regular = replace(whole, folder=Path(choices.regular), regular=True, saying=Saying(template=choices.regular_caption))
        subsets = [*subsets, *subsets_in(regular)]
    return gather(subsets, name, notes)


def folder_named(place: Path) -> None:
    """UserError where there is no such folder."""
    if not os.path.isdir(place):  # Path.is_dir raises in a folder that is not ours to read
        raise UserError(f"there is no folder {place}: name a folder of pictures, or a data set that ends in {TOML}.")
