"""`reverie adapt lora --data DIR --model MODEL`: low-rank changes of a model, from a handful of pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from reverie.cli.learning import Learning, learn
from reverie.data.album import Choices
from reverie.data.captions import HOLE
from reverie.data.kohya import TOML, batch_size
from reverie.errors import UserError, nearest
from reverie.systems.adapted import Adapting
from reverie.systems.shipped import open_model

PROG = "reverie adapt"
CHOICES = tuple(f.name for f in fields(Choices))
USUAL_BATCH = 8
METHODS = {"lora": "low-rank changes of the linear layers of the net"}


@dataclass(frozen=True, kw_only=True)
class Adapt(Learning, Choices):
    """A model's own LoRA."""

    method: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="METHOD")] = "lora"
    data: str = ""
    """A folder of pictures, with captions beside them or without; or a data set in kohya's TOML."""
    batch: int = 0
    """Pictures of a step; 0 = as the data set says, or 8."""
    model: str = "reverie-avatars"
    """The model that is changed: shipped, or a file."""
    caption: str = HOLE
    """What is said of each picture, its own caption in place of {}, as "{}, in the style of sks"."""
    rank: int = 16
    alpha: float = 0.0
    """The changes are alpha / rank times what is learnt; 0 = the rank."""

    @property
    def place(self) -> str:
        return f"{self.method}-{_name(self.data or 'model')}"

    @classmethod
    def begun(cls, recipe: Mapping[str, Any]) -> dict[str, Any] | None:
        names = ("data", "model", "caption", "rank", "alpha")
        if not set(names) <= recipe.keys():
            return None
        return {name: recipe[name] for name in (*names, *CHOICES) if name in recipe}

    def recipe(self) -> Adapting:
        """What is asked for."""
        if self.method not in METHODS:
            raise UserError(f"no way to adapt a model is called '{self.method}'.{nearest(self.method, METHODS)}")
        if not self.data:
            raise UserError("reverie adapt needs pictures: name their folder with --data")
        base = open_model(self.model)
        if base.defaults.size[0] != base.defaults.size[1]:
            raise UserError(f"{base.name} draws {base.defaults.size}: only square pictures can be learnt")
        return Adapting(
            name=f"{base.name}-{_name(self.data)}",
            about=f"{base.name}, changed",
            data=self.data,
            size=base.defaults.size[0],
            step=base.step,
            model=self.model,
            rank=self.rank,
            alpha=self.alpha,
            caption=self.caption,
            training=self.training(self._batch()),
            **{name: getattr(self, name) for name in CHOICES},
        )

    def _batch(self) -> int:
        """As it is asked for, else as the data set has it, else what is usual."""
        told = batch_size(Path(self.data)) if not self.batch and self.data.lower().endswith(TOML) else None
        return self.batch or (USUAL_BATCH if told is None else told)


def _name(data: str) -> str:
    """What a set of pictures is called: the name of its folder, or of its file."""
    place = Path(data).resolve()
    return place.stem if place.suffix.lower() == TOML else place.name


def main(arguments: Sequence[str]) -> None:
    """Adapts a model."""
    learn(Adapt, arguments, PROG)
