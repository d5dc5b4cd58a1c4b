"""`reverie adapt lora --data DIR --model MODEL`: low-rank changes of a model, from a handful of pictures."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from reverie.cli.parse import parse
from reverie.cli.train import show
from reverie.data.pictures import skipped
from reverie.errors import UserError, nearest
from reverie.systems.adapted import HOLE, Adapting
from reverie.systems.shipped import open_model
from reverie.tasks.train import Session, stored

PROG = "reverie adapt"
METHODS = {"lora": "low-rank changes of the linear layers of the net"}


@dataclass(frozen=True)
class Adapt:
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
    minutes: float = 10.0
    """How long it learns."""
    updates: int = 0
    """Optimiser steps, in place of minutes."""
    rate: float = 1e-3
    """Learning rate after the warm-up."""
    batch: int = 8
    seed: int = 0
    out: str = ""
    """Folder of the run; '' = runs/lora-FOLDER."""
    resume: bool = False
    """Go on with the run in the folder."""
    threads: int = 0
    """CPU threads; 0 = all."""


def main(arguments: Sequence[str]) -> None:
    """Adapts a model."""
    asked = parse(Adapt, arguments, PROG)
    folder = Path(asked.out or f"runs/{asked.method}-{Path(asked.data or 'model').name}")
    if asked.resume and (begun := stored(folder)):  # what it was begun with holds, unless it is said again
        asked = parse(Adapt, arguments, PROG, before(begun, folder))
    recipe = recipe_of(asked)
    if asked.threads:
        torch.set_num_threads(asked.threads)
    session = Session.open(recipe, folder, asked.resume)
    for line in skipped(session.problems):
        print(f"reverie: {line}", file=sys.stderr)
    show(session)
    print(session.folder / "lora.safetensors")


def before(begun: Mapping[str, Any], folder: Path) -> Adapt:
    """What the run in a folder was asked for."""
    training = begun.get("training")
    if not isinstance(training, Mapping) or not {"model", "rank", "caption"} <= begun.keys():
        raise UserError(f"{folder} holds another kind of run: name the folder of one that `reverie adapt` began with --out")
    own = {name: begun[name] for name in ("data", "model", "caption", "rank", "alpha")}
    return Adapt(
        **own,
        minutes=training["minutes"],
        updates=training["steps"] or 0,
        rate=training["rate"],
        batch=training["batch"],
        seed=training["seed"],
    )


def recipe_of(asked: Adapt) -> Adapting:
    """What is asked for."""
    if asked.method not in METHODS:
        raise UserError(f"no way to adapt a model is called '{asked.method}'.{nearest(asked.method, METHODS)}")
    if not asked.data:
        raise UserError("reverie adapt needs pictures: name their folder with --data")
    if not 0 <= asked.threads <= 1024:
        raise UserError(f"--threads is {asked.threads}; give a positive number up to 1024, or 0 for all")
    base = open_model(asked.model)
    if base.defaults.size[0] != base.defaults.size[1]:
        raise UserError(f"{base.name} draws {base.defaults.size}: only square pictures can be learnt")
    recipe = Adapting(
        name=f"{base.name}-{Path(asked.data).resolve().name}",
        about=f"{base.name}, changed",
        data=asked.data,
        size=base.defaults.size[0],
        model=asked.model,
        rank=asked.rank,
        alpha=asked.alpha,
        caption=asked.caption,
    )
    steps, minutes = asked.updates or None, asked.minutes
    return replace(
        recipe,
        training=replace(recipe.training, steps=steps, minutes=minutes, rate=asked.rate, batch=asked.batch, seed=asked.seed),
    )
