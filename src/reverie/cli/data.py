"""`reverie data NAME`: what a set is, its licence, and a contact sheet; `reverie data avatars --count N --out FILE` makes one."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

from reverie.cli.parse import parse
from reverie.data.pictures import Pictures, skipped
from reverie.data.sets import KINDS, Kind, Maker, kind_of, open_pictures
from reverie.errors import UserError
from reverie.files import check_place, write_whole


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
    overwrite: bool = False
    """Replace the file that --out names, if there is one."""
    sheet: str = ""
    """Picture file of the contact sheet; '' = NAME-sheet.png."""


def main(arguments: Sequence[str]) -> None:
    """Makes or opens a set, then says what it is."""
    asked = parse(Data, arguments, "reverie data", Data())
    kind = kind_of(asked.name)
    _check(asked, kind)
    sheet = Path(asked.sheet or f"{asked.name}-sheet.png")
    check_place(sheet)
    if asked.out and kind.make:
        _make(asked, kind.make)
    pictures = open_pictures(kind.name, asked.out or asked.path, asked.size if "size" in kind.options else 0)
    _say(pictures)
    write_whole(sheet, lambda part: pictures.sheet(64, asked.seed).save(part, "PNG"))
    print(f"contact sheet: {sheet}")


def _check(asked: Data, kind: Kind) -> None:
    """An option that would be ignored is refused by name, and so is an impossible number."""
    if not 0 <= asked.seed < 2**63:
        raise UserError(f"--seed is {asked.seed}; seeds are 0 or larger, and less than 2^63")
    if asked.out and kind.make is None:
        others = ", ".join(k.name for k in KINDS.values() if k.make)
        raise UserError(f"'{asked.name}' cannot be made, only looked at: leave out --out, or make one of {others}")
    if asked.out and os.path.isfile(asked.out) and not asked.overwrite:
        raise UserError(f"{asked.out} is there already: add --overwrite to replace it, or choose another --out")
    if asked.overwrite and not asked.out:
        raise UserError("--overwrite does nothing where nothing is made: leave it out")
    if kind.make and os.path.isdir(asked.path):
        how = f"name the file that `reverie data {kind.name} --out FILE` made, or look at a folder with `reverie data folder`"
        raise UserError(f"--path {asked.path} is a folder, and {kind.name} come in a file: {how}")
    used = kind.make_options if asked.out else kind.options
    for option in ("path", "count", "size", "style"):
        if option in used or getattr(asked, option) == getattr(Data(), option):
            continue
        if not asked.out and option in kind.make_options:
            raise UserError(f"--{option} is for new pictures: name the file to write them to with --out")
        doing = "made" if asked.out else "looked at"
        raise UserError(f"--{option} does nothing where '{asked.name}' is {doing}: leave it out")


def _make(asked: Data, make: Maker) -> None:
    with tqdm(unit="picture", file=sys.stderr, dynamic_ncols=True, leave=False) as bar:  # gone before an error is said

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        make(asked.out, asked.count, asked.size, asked.seed, asked.style, progress)
    print(f"written: {asked.out}")


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
