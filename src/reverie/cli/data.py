"""`reverie data NAME`: what a set is, its licence, and a contact sheet; `reverie data avatars --count N --out FILE` makes one."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

from reverie.cli.parse import parse
from reverie.data.pictures import Pictures, skipped
from reverie.errors import UserError, nearest
from reverie.files import check_place, write_whole

LOOKING = {"avatars": ("path",), "emoji": ("path",), "fashion-mnist": ("path",), "folder": ("path", "size")}
MAKING = {"avatars": ("count", "size", "style"), "emoji": ("size", "style")}  # with --out; the rest matters always


@dataclass(frozen=True)
class Data:
    """Shows a set of pictures, or makes one."""

    name: Annotated[str, tyro.conf.Positional] = "avatars"
    """avatars, emoji, fashion-mnist or folder."""
    path: str = ""
    """A file or folder to look at; '' = the packaged or installed set."""
    count: int = 0
    """avatars: how many to make; 0 = 1000."""
    size: int = 64
    """Of pictures that are made, or read from a folder."""
    style: tuple[str, ...] = ()
    """Only these styles are made."""
    seed: int = 0
    out: str = ""
    """File to write a made set to."""
    sheet: str = ""
    """Picture file of the contact sheet; '' = NAME-sheet.png."""


def main(arguments: Sequence[str]) -> None:
    """Makes or opens a set, then says what it is."""
    asked = parse(Data, arguments, "reverie data", Data())
    _check(asked)
    sheet = Path(asked.sheet or f"{asked.name}-sheet.png")
    check_place(sheet)
    pictures = _make(asked) if asked.out else _open(asked)
    _say(pictures)
    write_whole(sheet, lambda part: pictures.sheet(64, asked.seed).save(part, "PNG"))
    print(f"contact sheet: {sheet}")


def _check(asked: Data) -> None:
    """An option that would be ignored is refused by name."""
    if asked.name not in LOOKING:
        raise UserError(f"no data set is called '{asked.name}'.{nearest(asked.name, LOOKING)}")
    if asked.out and asked.name not in MAKING:
        raise UserError(f"'{asked.name}' cannot be made, only looked at: leave out --out, or make one of {', '.join(MAKING)}")
    used = MAKING[asked.name] if asked.out else LOOKING[asked.name]
    for option in ("path", "count", "size", "style"):
        if option in used or getattr(asked, option) == getattr(Data(), option):
            continue
        if not asked.out and option in MAKING.get(asked.name, ()):
            raise UserError(f"--{option} is for new pictures: name the file to write them to with --out")
        doing = "made" if asked.out else "looked at"
        raise UserError(f"--{option} does nothing where '{asked.name}' is {doing}: leave it out")


def _open(asked: Data) -> Pictures:
    if asked.name == "avatars":
        from reverie.data.avatars import avatars

        return avatars(asked.path or None)
    if asked.name == "fashion-mnist":
        from reverie.data.fashion import fashion_mnist

        return fashion_mnist("train", asked.path or None)
    if not asked.path:
        raise UserError(f"'{asked.name}' is not packaged: look at one with --path, or make the emoji set with --out FILE")
    if asked.name == "emoji":
        from reverie.data.emoji import emoji

        return emoji(asked.path)
    from reverie.data.folder import folder

    return folder(asked.path, asked.size)


def _make(asked: Data) -> Pictures:
    makers = {"avatars": _avatars, "emoji": _emoji}
    with tqdm(unit="picture", file=sys.stderr, dynamic_ncols=True, leave=False) as bar:  # gone before an error is said

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        made = makers[asked.name](asked, progress)
    print(f"written: {asked.out}")
    return made


def _avatars(asked: Data, progress: Callable[[int, int], None]) -> Pictures:
    from reverie.data.avatar_attributes import STYLES
    from reverie.data.avatars import avatars, generate_file

    generate_file(asked.out, asked.count or 1000, asked.size, asked.seed, asked.style or STYLES, progress)
    return avatars(asked.out)


def _emoji(asked: Data, progress: Callable[[int, int], None]) -> Pictures:
    from reverie.data.emoji import PERMISSIVE, emoji, generate_emoji

    generate_emoji(asked.out, asked.size, asked.style or PERMISSIVE, progress=progress)
    return emoji(asked.out)


def _say(pictures: Pictures) -> None:
    *_, height, width = pictures.images.shape
    print(f"{pictures.name}: {len(pictures)} pictures, {width}x{height}, {pictures.images.nbytes / 1e6:.0f} MB in memory")
    print(f"licence: {pictures.licence}")
    if pictures.credit:
        print(f"credit: {pictures.credit}")
    if pictures.classes:
        print(f"classes: {', '.join(pictures.classes)}")
    for line in skipped(pictures.problems):
        print(line)
