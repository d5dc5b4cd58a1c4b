"""What a model is to learn from a handful of pictures: the ways there are, and what each of them means for a model.

Lesson(method="lora", data="pictures").recipe()    a run of `tasks/train.py`
"""

from dataclasses import dataclass, fields
from pathlib import Path

from reverie.data.album import Choices
from reverie.data.captions import HOLE
from reverie.data.kohya import TOML, batch_size
from reverie.errors import UserError, nearest
from reverie.systems.adapted import ALL, Adapting, Parts
from reverie.systems.shipped import open_model
from reverie.train.training import Training

USUAL_BATCH = 8
BIG = 100_000_000
"""Numbers of a net from which on it learns slowly."""
READS = r"(cross|cross_attention|text\.heads)\.(k|v)$"
"""Layers by which nets read words (Custom Diffusion, arXiv:2212.04488)."""


@dataclass(frozen=True)
class Way:
    """What learns: low-rank changes of this rank, layers themselves, a word; and how fast, of small nets and of big ones."""

    about: str
    rates: tuple[float, float]
    rank: int = 0
    whole: str = ""
    word: bool = False
    minutes: float = 10.0


METHODS = {
    "lora": Way("low-rank changes of the net's layers", (1e-3, 1e-4), rank=16),
    "dreambooth": Way("the whole net; with --rank low-rank changes of it in its place", (2e-4, 5e-6), whole=ALL),
    "inversion": Way("a word alone, of --vectors vectors", (2e-2, 5e-3), word=True),
    "pivotal": Way("a word, and low-rank changes with it", (1e-3, 1e-4), rank=16, word=True),
    "encoder": Way(
        "a word that an encoder says of one picture or some (--begin), and low-rank changes; seconds",
        (1e-3, 1e-4),
        rank=16,
        word=True,
        minutes=0.1,
    ),
    "custom": Way("a word, and the keys and values of what the net reads words by", (5e-4, 1e-5), whole=READS, word=True),
}


@dataclass(frozen=True, kw_only=True)
class Lesson(Choices, Parts):
    """What a model learns from a handful of pictures."""

    method: str = "lora"
    data: str = ""
    """A folder of pictures, with captions beside them or without; or a data set in kohya's TOML."""
    minutes: float = 0.0
    """How long it learns; 0 = ten, or six seconds of what an encoder began."""
    updates: int = 0
    """Optimiser steps, in place of minutes."""
    batch: int = 0
    """Pictures of a step; 0 = as the data set says, or 8."""
    model: str = "reverie-avatars"
    """The model that learns: shipped, or a file."""
    size: int = 0
    """Pixels of a side of what is learnt; 0 = as the model draws."""
    caption: str = ""
    """What is said of each picture, its own caption in place of {}, as "{}, in the style of sks"; '' = its own, or the word."""
    rank: int | None = None
    """Of low-rank changes; none = 16 of lora and pivotal."""
    rate: float = 0.0
    """Learning rate after the warm-up; 0 = what is usual of the method, less of big nets."""
    seed: int = 0

    def check(self) -> Way:
        """What can be refused before anything is opened or drawn; the way that is asked for."""
        if self.method not in METHODS:
            raise UserError(f"no way to adapt a model is called '{self.method}'.{nearest(self.method, [*METHODS, 'zip'])}")
        if not self.data:
            raise UserError("reverie adapt needs pictures: name their folder with --data")
        way = METHODS[self.method]
        if way.word and not self.word:
            raise UserError(f"{self.method} teaches a word: say what it is called, as --word sks")
        if self.method == "encoder" and not self.begin:
            raise UserError("encoder needs what says the word: name a run of `reverie train avatars-subject` with --begin")
        return way

    def recipe(self) -> Adapting:
        """What is asked for; opens the model."""
        way = self.check()
        base = open_model(self.model)
        height, width = base.defaults.size
        if not self.size and height != width:
            raise UserError(
                f"{base.name} draws {width}x{height}: say how large the squares are that it is to learn, as --size {height}"
            )
        rank = way.rank if self.rank is None else self.rank
        usual = way.rates[sum(p.numel() for p in base.denoiser.net.parameters()) > BIG]
        own = {name: getattr(self, name) for name in (*HELD, *CHOICES) if name not in ("rank", "whole", "caption")}
        return Adapting(
            name=f"{base.name}-{called(self.data)}",
            about=f"{base.name}, changed",
            size=self.size or height,
            step=base.step,
            rank=rank,
            whole=self.whole or ("" if rank and not way.rank else way.whole),
            caption=self.caption or self.word or HOLE,
            training=Training.gentle(self.updates, self.minutes or way.minutes, self._batch(), self.rate or usual, self.seed),
            **own,
        )

    def _batch(self) -> int:
        """As it is asked for, else as the data set has it, else what is usual."""
        told = batch_size(Path(self.data)) if not self.batch and self.data.lower().endswith(TOML) else None
        return self.batch or (USUAL_BATCH if told is None else told)


HELD = ("data", "model", "caption", "rank", *(f.name for f in fields(Parts)))
"""What is asked for that stands in the recipe."""
CHOICES = tuple(f.name for f in fields(Choices))
"""And how the pictures are seen."""


def called(data: str) -> str:
    """What a set of pictures is called: the name of its folder, or of its file."""
    place = Path(data).resolve()
    return place.stem if place.suffix.lower() == TOML else place.name
