"""`reverie repro lora.safetensors --data DIR`: what was learnt, learnt again by the recipe inside, and compared."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import torch
import tyro

from reverie.cli.parse import parse
from reverie.cli.train import show
from reverie.errors import UserError
from reverie.tasks.repro import apart, read
from reverie.tasks.train import Session

CLOSE = 0.01
"""Of the size of what was learnt: rounding grows to that in a run; from there on it is another."""


@dataclass(frozen=True)
class Repro:
    """Learns again what a file of `reverie adapt` holds; exit code 1 where what comes out is not that."""

    file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE")] = ""
    """What `reverie adapt` wrote: a LoRA or an embedding."""
    data: str = ""
    """The pictures that it was learnt from; the file holds their record, and not their place."""
    model: str = ""
    """The model that learnt, where it is none that ships."""
    begin: str = ""
    """The encoder that said what a word begins as, where one did."""
    regular: str = ""
    """The pictures that were not to be forgotten, where there were any."""
    out: str = ""
    """Folder of the run; '' = runs/repro-FILE."""
    resume: bool = False
    """Go on with the run in the folder."""
    threads: int = 0
    """CPU threads; 0 = all."""


def main(arguments: Sequence[str]) -> None:
    """Learns again, and compares."""
    asked = parse(Repro, arguments, "reverie repro", Repro())
    if not asked.file or not asked.data:
        raise UserError("reverie repro takes a file and the pictures it was learnt from: reverie repro lora.safetensors --data DIR")
    if not 0 <= asked.threads <= 1024:
        raise UserError(f"--threads is {asked.threads}; give a positive number up to 1024, or 0 for all")
    if asked.threads:
        torch.set_num_threads(asked.threads)
    file = Path(asked.file)
    before = read(file, asked.data, asked.model, asked.regular, asked.begin)
    session = Session.open(before.recipe, Path(asked.out or f"runs/repro-{file.stem}"), asked.resume)
    show(session)
    made = session.folder / f"{before.kind}.safetensors"
    gap = apart(before, made)
    print(made)
    print(_said(gap, before.version))
    if gap > CLOSE:
        sys.exit(1)


def _said(gap: float, made_by: str) -> str:
    if gap == 0:
        return "the same, bit for bit"
    if math.isinf(gap):
        return "other tensors than those of the file"
    here = version("reverie")
    why = (
        f"it was made by reverie {made_by}, and this is {here}"
        if made_by not in ("", here)
        else "processors and threads round differently"
    )
    return f"apart by {100 * gap:.2g} % of its size: {why}"
