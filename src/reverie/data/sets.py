"""The kinds of data there are, by name: how each is opened, and made where it can be."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reverie.data.avatar_attributes import STYLES
from reverie.data.avatars import avatars, generate_file
from reverie.data.emoji import PERMISSIVE, emoji, generate_emoji
from reverie.data.fashion import fashion_mnist
from reverie.data.folder import folder
from reverie.data.pictures import Pictures
from reverie.errors import UserError, nearest

Progress = Callable[[int, int], None]
Opener = Callable[[str, int], Pictures]
"""(path, size) -> pictures. path: '' = the packaged or installed set; size: 0 = as they are."""
Maker = Callable[[str, int, int, int, Sequence[str], Progress], None]
"""(file, count, size, seed, styles, progress): count 0 and no styles = what is usual."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of data. options: those that matter when it is opened. test: pictures that are never trained on."""

    name: str
    open: Opener
    options: tuple[str, ...] = ("path",)
    packaged: bool = True
    """There is a set where no path is named."""
    test: Opener | None = None
    make: Maker | None = None
    make_options: tuple[str, ...] = ()


def _fashion(split: str) -> Opener:
    def opener(path: str, size: int) -> Pictures:
        pictures = fashion_mnist(split, path or None)
        return pictures.pad(size) if size else pictures

    return opener


def _make_avatars(file: str, count: int, size: int, seed: int, styles: Sequence[str], progress: Progress) -> None:
    generate_file(file, count or 1000, size, seed, styles or STYLES, progress)


def _make_emoji(file: str, count: int, size: int, seed: int, styles: Sequence[str], progress: Progress) -> None:
    generate_emoji(file, size, styles or PERMISSIVE, progress=progress)


AVATARS = Kind(
    name="avatars",
    open=lambda path, size: avatars(path or None),
    make=_make_avatars,
    make_options=("count", "size", "style"),
)
EMOJI = Kind(name="emoji", open=lambda path, size: emoji(path), packaged=False, make=_make_emoji, make_options=("size", "style"))
FASHION = Kind(name="fashion-mnist", open=_fashion("train"), test=_fashion("test"))
FOLDER = Kind(name="folder", open=lambda path, size: folder(path, size or 64), options=("path", "size"), packaged=False)
KINDS = {kind.name: kind for kind in (AVATARS, EMOJI, FASHION, FOLDER)}


def kind_of(name: str) -> Kind:
    """The kind of data of this name."""
    if name not in KINDS:
        raise UserError(f"no data set is called '{name}'.{nearest(name, KINDS)}")
    return KINDS[name]


def open_pictures(name: str, path: str | Path = "", size: int = 0) -> Pictures:
    """The pictures of a kind of data, square, of `size` pixels (0 = as they are).

    Those of a set whose pictures are larger by a whole factor are made smaller.

    Raises UserError where there is no such kind, no such set, or its pictures have another size.
    """
    kind = kind_of(name)
    if not path and not kind.packaged:
        how = f"make one with `reverie data {name} --out FILE`, and name it" if kind.make else "name yours"
        raise UserError(
            f"no {name} set comes with the package: {how} with --data DIR (`reverie train`) or --path DIR (`reverie data`)"
        )
    pictures = kind.open(str(path), size)
    height, width = pictures.images.shape[2:]
    if size and height == width and height > size and not height % size:
        pictures = pictures.shrunk(height // size)
    if size and pictures.images.shape[2:] != (size, size):
        *_, height, width = pictures.images.shape
        found = f"{pictures.name} has pictures of {width}x{height}, not {size}x{size}"
        make = f", which `reverie data {name} --size {size} --out FILE` makes" if "size" in kind.make_options else ""
        raise UserError(f"{found}: name a set of that size{make}, or train with --size {width}")
    return pictures
