"""`reverie adapt lora --data DIR --model MODEL`: low-rank changes of a model, from a handful of pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from reverie.cli.learning import Learning, learn
from reverie.errors import UserError, nearest
from reverie.systems.adapted import HOLE, Adapting
from reverie.systems.shipped import open_model

PROG = "reverie adapt"
METHODS = {"lora": "low-rank changes of the linear layers of the net"}


@dataclass(frozen=True, kw_only=True)
class Adapt(Learning):
    """A model's own LoRA."""

    method: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="METHOD")] = "lora"
    data: str = ""
    """A folder of pictures, with captions beside them or without."""
    model: str = "reverie-avatars"
    """The model that is changed: shipped, or a file."""
    caption: str = HOLE
    """What is said of each picture, its own caption in place of {}, as "{}, in the style of sks"."""
    rank: int = 16
    alpha: float = 0.0
    """The changes are alpha / rank times what is learnt; 0 = the rank."""
    metadata: bool = True
    """The file says of itself what other tools read: modelspec and ss_ entries."""

    @property
    def place(self) -> str:
        return f"{self.method}-{Path(self.data or 'model').name}"

    @classmethod
    def begun(cls, recipe: Mapping[str, Any]) -> dict[str, Any] | None:
        names = ("data", "model", "caption", "rank", "alpha")
        more = {"metadata": recipe["metadata"]} if "metadata" in recipe else {}  # which older runs do not speak of
        return {name: recipe[name] for name in names} | more if set(names) <= recipe.keys() else None

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
            name=f"{base.name}-{Path(self.data).resolve().name}",
            about=f"{base.name}, changed",
            data=self.data,
            size=base.defaults.size[0],
            model=self.model,
            rank=self.rank,
            alpha=self.alpha,
            caption=self.caption,
            metadata=self.metadata,
            training=self.training(),
        )


def main(arguments: Sequence[str]) -> None:
    """Adapts a model."""
    learn(Adapt, arguments, PROG)
