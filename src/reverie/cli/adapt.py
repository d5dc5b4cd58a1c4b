"""`reverie adapt lora --data DIR --model MODEL`: what a model learns from a handful of pictures."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

import tyro
from tqdm import tqdm

from reverie.cli.learning import Learning, learn
from reverie.errors import UserError
from reverie.systems.shipped import open_model
from reverie.systems.zipped import Zipper
from reverie.tasks.adapt import CHOICES, HELD, METHODS, Lesson, called
from reverie.tasks.prior import prior

PROG, ZIP = "reverie adapt", "zip"


@dataclass(frozen=True, kw_only=True)
class Adapt(Lesson, Learning):
    """What a model learns from a handful of pictures."""

    method: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="METHOD")] = "lora"
    prior: int = 0
    """Pictures of --prior-prompt that the model draws first, so as not to forget them (prior preservation); see --regular."""
    prior_prompt: str = ""
    """What the thing is a kind of, as "a man" where a certain man is learnt."""

    @property
    def place(self) -> str:
        return f"{self.method}-{called(self.data or 'model')}"

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


ZIPS = ("model", "first", "second", "first_prompt", "second_prompt", "drawn", "overlap")
"""What is asked for that stands in the recipe."""


def main(arguments: Sequence[str]) -> None:
    """Adapts a model."""
    if arguments and arguments[0] in ("-h", "--help"):
        names = "\n".join(f"  {name:<12} {way.about}" for name, way in METHODS.items())
        print(f"methods:\n\n{names}\n  {ZIP:<12} two LoRAs in one: reverie adapt zip --help\n")
    if arguments and arguments[0] == ZIP:
        learn(AdaptZip, arguments[1:], f"{PROG} {ZIP}")
    else:
        learn(Adapt, arguments, PROG)
