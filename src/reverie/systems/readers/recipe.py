"""How the judges are trained: on real pictures alone, apart from every generator, with seeds of their own.

reverie train avatars-reader --out runs/avatars-reader
python -m reverie.systems.readers runs/avatars-reader avatars    (measures it, and writes the file that is shipped)
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from reverie.data.pictures import Pictures
from reverie.errors import UserError
from reverie.measure.reader import Reader
from reverie.nets.classifier import ClassifierConfig
from reverie.systems.recipe import Preset, channels_last
from reverie.systems.system import Part
from reverie.train.jobs import Reading
from reverie.train.loop import Job
from reverie.train.training import Training


@dataclass(frozen=True, kw_only=True)
class ReaderRecipe(Preset):
    """A classifier of several attributes."""

    heads: tuple[str, ...]
    """The attributes that are read."""
    net: ClassifierConfig
    shift: int = 2
    """Pictures are moved by up to this many pixels."""
    soft: float = 0.5
    """Chance that a picture is softened."""
    noise: float = 0.1
    """Largest deviation of added noise, of a range of 2."""

    def prepare(self, pictures: Pictures) -> tuple[Part, Job]:
        """A fresh reader for these pictures, and its training job."""
        train, held = self.split(pictures)
        values = seen(pictures, self.heads)
        torch.manual_seed(self.training.seed)
        net = replace(self.net, in_channels=pictures.images.shape[1], heads={h: len(v) for h, v in values.items()})
        reader = Reader(net, values, self.size)
        channels_last(reader)
        job = Reading(
            reader,
            train.images,
            targets(train, values),
            held.images,
            targets(held, values),
            shift=self.shift,
            soft=self.soft,
            noise=self.noise,
            autocast=self.training.autocast,
        )
        return Part(reader=reader, about=self.card(pictures)), job


def seen(pictures: Pictures, heads: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The values of each attribute that occur, in order of the alphabet."""
    attributes = pictures.attributes or ()
    found = {h: tuple(sorted({a[h] for a in attributes if h in a})) for h in heads}
    for head, values in found.items():
        if len(values) < 2:
            raise UserError(f"{pictures.name} has nothing to tell apart under '{head}': choose other --heads")
    return found


def targets(pictures: Pictures, values: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """{head: (N,) int64}: which value each picture has, -1 where it has none."""
    index = {head: {v: k for k, v in enumerate(names)} for head, names in values.items()}
    attributes = pictures.attributes or ()
    return {h: np.array([known.get(a.get(h, ""), -1) for a in attributes], np.int64) for h, known in index.items()}


AVATARS_READER = ReaderRecipe(
    name="avatars-reader",
    about="the judge of avatars: reads style, hair, skin, glasses, ...",
    source="avatars",
    heads=("style", "hair", "hair_color", "skin", "glasses", "facial_hair", "expression", "clothing_color"),
    net=ClassifierConfig(patch=2, channels=32, mult=(1, 2, 3, 3, 2), groups=8),
    soft=0.2,
    noise=0.05,
    training=Training(
        steps=8000,
        batch=16,
        rate=1.5e-3,
        warmup=50,
        decay=0.7,
        weight_decay=0.02,
        holdout=1000,
        widths=(0.05,),
        snapshots=0,
        seed=101,
    ),
)

FASHION_READER = ReaderRecipe(
    name="fashion-reader",
    about="the judge of Fashion-MNIST: tells the ten classes apart",
    source="fashion-mnist",
    size=32,
    heads=("class",),
    net=ClassifierConfig(patch=2, channels=32, mult=(1, 2, 4), groups=8),
    shift=1,
    soft=0.1,
    noise=0.03,
    training=Training(
        steps=4800,
        batch=32,
        rate=2e-3,
        warmup=50,
        decay=0.7,
        weight_decay=0.02,
        holdout=1000,
        widths=(0.05,),
        snapshots=0,
        seed=102,
    ),
)
