"""One folder of a data set, and how its pictures are to be seen: how often, in what size, what is said, which places count."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from reverie.data.captions import Saying
from reverie.data.folder import folders_in, look, pictures_in
from reverie.data.masks import found as mask_found
from reverie.data.picture_file import MAX_PIXELS, read_picture
from reverie.data.shapes import Shapes, Size
from reverie.errors import UserError

NAMED = re.compile(r"(\d+)_(.*\S.*)")
"""Folders that are named for how often they are seen and what they show, as kohya's scripts want them: "10_sks dog"."""
MOST_REPEATS = 100_000


@dataclass(frozen=True, eq=False, kw_only=True)
class Shot:
    """A picture (3, H, W) uint8 in its bucket's size, and how it is seen.

    text: its caption, None where it has none. mask (H, W) uint8: what is learnt of it, None = all. repeats: so often it is seen in
    an epoch. drop: the chance that nothing is said; None = that of the training. held: the share of its subset that is held out,
    None = what is usual. picture, words: SHA-256 of the file and of the caption.
    """

    image: np.ndarray
    text: str | None
    saying: Saying
    mask: np.ndarray | None = None
    repeats: int = 1
    flip: bool = False
    drop: float | None = None
    held: float | None = None
    picture: str = ""
    cut: "Callable[[Size], Shot] | None" = None
    """The same picture from its file, in another size."""

    @property
    def size(self) -> Size:
        """Height and width."""
        return self.image.shape[1], self.image.shape[2]

    @property
    def words(self) -> str:
        """SHA-256 of the caption, '' where there is none."""
        return "" if self.text is None else hashlib.sha256(self.text.encode()).hexdigest()

    def said(self, rng: np.random.Generator) -> str:
        """What is said of it this time."""
        return self.saying(self.text or "", rng)


@dataclass(frozen=True, kw_only=True)
class Subset:
    """A folder of pictures.

    name: what is said of pictures without a caption. regular: what the model knows already and is not to forget. suffix: of the
    files with captions, '' = .txt, or .caption. masks: a folder with a mask for every picture. alpha: transparency is a mask.
    """

    folder: Path
    shapes: Shapes
    repeats: int = 1
    name: str = ""
    regular: bool = False
    suffix: str = ""
    saying: Saying = field(default_factory=Saying)
    drop: float | None = None
    flip: bool = False
    masks: Path | None = None
    alpha: bool = False
    held: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.repeats <= MOST_REPEATS:
            raise UserError(f"{self.folder} is to be seen {self.repeats} times an epoch: give 1 to {MOST_REPEATS}")
        for what, share in (("captions are left out", self.drop), ("pictures are held out", self.held)):
            if share is not None and not 0 <= share <= 1:
                raise UserError(f"{self.folder}: {what} by a share of {share}; it lies between 0 and 1")
        if self.suffix and not re.fullmatch(r"\.[^/\\\0]+", self.suffix):
            raise UserError(f"{self.folder}: captions end in '{self.suffix}'; give an ending with its dot, as .txt")

    def shots(self, problems: list[str], max_pixels: int = MAX_PIXELS) -> Iterator[Shot]:
        """Its pictures; what cannot be used is added to `problems`, one line each. UserError where there is no such folder."""
        for wanted in (self.folder, self.masks):
            if wanted is not None and not os.path.isdir(wanted):
                raise UserError(f"there is no folder {wanted}: name one with pictures in it")
        seen = look(self.folder, max_pixels, self.suffix, self.name)
        problems += seen.problems
        texts: Sequence[str | None] = seen.texts or seen.classes or [None] * len(seen.paths)
        for path, text in zip(seen.paths, texts, strict=True):
            try:
                yield self._shot(path, text, max_pixels)
            except UserError as problem:
                problems.append(f"{problem}, skipped")

    def _shot(self, path: Path, text: str | None, max_pixels: int, size: Size | None = None) -> Shot:
        """The picture in a file, in `size` or that of its bucket."""
        image = read_picture(path, max_pixels)
        try:
            height, width = size or self.shapes.of(image.height, image.width)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        mask = mask_found(path, image.size, folder=self.masks, alpha=self.alpha, max_pixels=max_pixels)
        cut = None if mask is None else _cut(mask, (height, width), Image.Resampling.BOX)
        if cut is not None and not cut.any():
            raise UserError(f"{path}: its mask leaves nothing of it to learn")
        return Shot(
            image=_cut(image, (height, width)).transpose(2, 0, 1),
            text=text,
            saying=self.saying,
            mask=cut,
            repeats=self.repeats,
            flip=self.flip,
            drop=self.drop,
            held=self.held,
            picture=hashlib.sha256(path.read_bytes()).hexdigest(),
            cut=lambda size: self._shot(path, text, max_pixels, size),
        )


def _cut(image: Image.Image, size: Size, by: Image.Resampling = Image.Resampling.LANCZOS) -> np.ndarray:
    """Scaled to cover `size`, and its middle cut out."""
    return np.asarray(ImageOps.fit(image, (size[1], size[0]), by))


def subsets_in(whole: Subset) -> list[Subset]:
    """The folders that it holds, each so often as its name says, where all that have pictures are named so; else the folder."""
    place = whole.folder
    if not os.path.isdir(place) or (place / "metadata.jsonl").is_file() or pictures_in(place):
        return [whole]
    inner = [folder for folder in folders_in(place) if pictures_in(folder)]
    names = [NAMED.fullmatch(folder.name) for folder in inner]
    told = [(folder, name) for folder, name in zip(inner, names, strict=True) if name is not None]
    if not told or len(told) < len(inner):
        return [whole]
    return [replace(whole, folder=folder, repeats=int(name[1]), name=name[2].strip()) for folder, name in told]
