"""`reverie convert MODEL OUT`: a published model as a folder in diffusers' layout, in safetensors."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reverie.cli.parse import parse
from reverie.errors import UserError
from reverie.files import check_place


@dataclass(frozen=True)
class Convert:
    """Writes what `--model` opens as a folder that diffusers opens, and reverie too: from single files, shards and pickles."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = ""
    """A folder in diffusers' layout, or a publisher's single file."""
    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")] = ""
    """A folder that is not there yet, or is empty."""
    partial: bool = False
    """Of a file that is not whole, use what fits; what is missing is zero."""
    allow_pickle: bool = False
    """Read the tensors of a pickle, in a process of its own, without network where the system grants that."""
    parts: str = ""
    """A folder in diffusers' layout with what a single file lacks."""


def main(arguments: Sequence[str]) -> None:
    """Opens, and writes."""
    asked = parse(Convert, arguments, "reverie convert", Convert())
    if not asked.model or not asked.out:
        raise UserError("reverie convert takes a model and a folder to write: reverie convert MODEL OUT")
    if os.path.isfile(asked.out) or (os.path.isdir(asked.out) and os.listdir(asked.out)):
        raise UserError(f"{asked.out} is there already: name a folder that is not, or is empty")
    check_place(Path(f"{asked.out}.part"))  # beside it, for a folder that cannot be filled should not be left
    from reverie.systems.foreign import write_folder  # loads torch, which --help has no need of
    from reverie.systems.opening import Opening
    from reverie.systems.shipped import read_model

    system = read_model(asked.model, Opening(partial=asked.partial, allow_pickle=asked.allow_pickle, parts=asked.parts))
    write_folder(system, Path(asked.out))
    print(asked.out)
