"""A judge of the style that bench/adapt.py learns: hair, its colour and the skin's, in that style and in the model's own four.

    python bench/style_reader.py                    # some minutes: runs/adapt/reader

The shipped reader has seen its four styles alone, and reads 70 % of these colours right in the pictures of this one. This one
learns from 3,000 pictures of the style, which are none of those that are learnt or drawn there, and as many of the model's data.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from adapt import STYLE, told

from reverie.data.avatars import avatars, generate
from reverie.data.packed import Packed, write
from reverie.systems.readers.recipe import AVATARS_READER
from reverie.tasks.train import Session

HEADS = ("hair", "hair_color", "skin")


@dataclass
class Bench:
    folder: Path = Path("runs/adapt")
    count: int = 3000
    steps: int = 3000
    threads: int = 1


def data(bench):
    """The file of both, whose attributes are those of HEADS, in the model's words."""
    file = bench.folder / "read.safetensors"
    if not file.exists():
        new, own = generate(bench.count, 64, 6, [STYLE]), avatars().take(np.arange(bench.count))
        shown = [told(new, row) for row in range(len(new))] + [{k: a[k] for k in HEADS if k in a} for a in own.attributes]
        rows = tuple({"style": STYLE, **a} for a in shown)
        values = {name: sorted({a[name] for a in rows if name in a}) for name in ("style", *HEADS)}
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, Packed("avatars", new.licence, new.credit, np.concatenate([new.images, own.images]), rows, values=values))
    return file


def main(bench):
    torch.set_num_threads(bench.threads)
    how = replace(AVATARS_READER.training, steps=bench.steps, holdout=500)
    asked = replace(AVATARS_READER, name="style-reader", data=str(data(bench)), heads=HEADS, training=how)
    for now in Session.open(asked, bench.folder / "reader", resume=True):
        if now.step % 100 == 0:
            print(now.step, f"{now.loss:.3f}", now.validation, flush=True)


if __name__ == "__main__":
    main(tyro.cli(Bench))
