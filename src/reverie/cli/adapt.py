"""`reverie adapt lora --data DIR --model MODEL`: what a model learns from a handful of pictures."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Self

import tyro
from tqdm import tqdm

from reverie.cli.learning import Learning, learn
from reverie.data.album import Choices
from reverie.data.captions import HOLE
from reverie.data.kohya import TOML, batch_size
from reverie.errors import UserError, nearest
from reverie.systems.adapted import ALL, Adapting, Parts
from reverie.systems.shipped import open_model
from reverie.systems.zipped import Zipper
from reverie.tasks.prior import prior

PROG, ZIP = "reverie adapt", "zip"
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
class Adapt(Learning, Choices, Parts):
    """What a model learns from a handful of pictures."""

    method: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="METHOD")] = "lora"
    data: str = ""
    """A folder of pictures, with captions beside them or without; or a data set in kohya's TOML."""
    minutes: float = 0.0
    """How long it learns; 0 = ten, or six seconds of what an encoder began."""
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
    prior: int = 0
    """Pictures of --prior-prompt that the model draws first, so as not to forget them (prior preservation); see --regular."""
    prior_prompt: str = ""
    """What the thing is a kind of, as "a man" where a certain man is learnt."""

    @property
    def place(self) -> str:
        return f"{self.method}-{_name(self.data or 'model')}"

    @classmethod
    def begun(cls, recipe: Mapping[str, Any]) -> dict[str, Any] | None:
        if not {"model", "rank", "caption"} <= recipe.keys():
            return None
        return {name: recipe[name] for name in ("size", *HELD, *CHOICES) if name in recipe}

    def ready(self, folder: Path) -> Self:
        if not self.prior and not self.prior_prompt:
            return self
        if self.prior < 1 or not self.prior_prompt or self.regular:
            raise UserError("--prior says how many pictures of --prior-prompt are drawn: give both, and no --regular, or neither")
        self.check()
        absent = prior(open_model(self.model), self.prior_prompt, self.prior, folder / "prior", self.seed)
        for _ in tqdm(absent, "drawing what is not to be forgotten", self.prior, leave=False, file=sys.stderr):
            continue
        return replace(self, regular=str(folder / "prior"), regular_caption=self.prior_prompt, prior=0, prior_prompt="")

    def check(self) -> Way:
        """What can be refused before anything is opened or drawn; the way that is asked for."""
        if self.method not in METHODS:
            raise UserError(f"no way to adapt a model is called '{self.method}'.{nearest(self.method, [*METHODS, ZIP])}")
        if not self.data:
            raise UserError("reverie adapt needs pictures: name their folder with --data")
        way = METHODS[self.method]
        if way.word and not self.word:
            raise UserError(f"{self.method} teaches a word: say what it is called, as --word sks")
        if self.method == "encoder" and not self.begin:
            raise UserError("encoder needs what says the word: name a run of `reverie train avatars-subject` with --begin")
        return way

    def recipe(self) -> Adapting:
        """What is asked for."""
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
            name=f"{base.name}-{_name(self.data)}",
            about=f"{base.name}, changed",
            size=self.size or height,
            step=base.step,
            rank=rank,
            whole=self.whole or ("" if rank and not way.rank else way.whole),
            caption=self.caption or self.word or HOLE,
            training=replace(self, rate=self.rate or usual, batch=self._batch(), minutes=self.minutes or way.minutes).training(),
            **own,
        )

    def _batch(self) -> int:
        """As it is asked for, else as the data set has it, else what is usual."""
        told = batch_size(Path(self.data)) if not self.batch and self.data.lower().endswith(TOML) else None
        return self.batch or (USUAL_BATCH if told is None else told)


def _name(data: str) -> str:
    """What a set of pictures is called: the name of its folder, or of its file."""
    place = Path(data).resolve()
    return place.stem if place.suffix.lower() == TOML else place.name


@dataclass(frozen=True, kw_only=True)
class AdaptZip(Learning):
    """Two LoRAs in one, as a subject and a style, that do not spoil each other."""

    model: str = "reverie-avatars"
    """The model of both: shipped, or a file."""
    first: str = ""
    """A file."""
    second: str = ""
    """Another."""
    first_prompt: str = ""
    """What is said where the first draws alone, as "a portrait of sks"."""
    second_prompt: str = ""
    """Likewise."""
    drawn: int = 16
    """Pictures that each draws of its own prompt, which it is to draw as well afterwards."""
    overlap: float = 0.01
    """Weight of what the two share of a layer's columns."""
    updates: int = 100
    rate: float = 1e-2
    batch: int = 4

    @property
    def place(self) -> str:
        return f"{ZIP}-{Path(self.first).stem}-{Path(self.second).stem}"

    @classmethod
    def begun(cls, recipe: Mapping[str, Any]) -> dict[str, Any] | None:
        return {name: recipe[name] for name in ZIPS} if set(ZIPS) <= recipe.keys() else None

    def recipe(self) -> Zipper:
        """What is asked for."""
        if not (self.first and self.second):
            raise UserError("reverie adapt zip takes two LoRAs: name them with --first and --second")
        return Zipper(training=replace(self.training(), warmup=0), **{name: getattr(self, name) for name in ZIPS})


HELD = ("data", "model", "caption", "rank", *(f.name for f in fields(Parts)))
"""What is asked for that stands in the recipe."""
CHOICES = tuple(f.name for f in fields(Choices))
"""And how the pictures are seen."""
ZIPS = ("model", "first", "second", "first_prompt", "second_prompt", "drawn", "overlap")
"""Likewise of two in one."""


def main(arguments: Sequence[str]) -> None:
    """Adapts a model."""
    if arguments and arguments[0] in ("-h", "--help"):
        names = "\n".join(f"  {name:<12} {way.about}" for name, way in METHODS.items())
        print(f"methods:\n\n{names}\n  {ZIP:<12} two LoRAs in one: reverie adapt zip --help\n")
    if arguments and arguments[0] == ZIP:
        learn(AdaptZip, arguments[1:], f"{PROG} {ZIP}")
    else:
        learn(Adapt, arguments, PROG)
