"""`reverie distill fast --teacher MODEL --steps 2`: a student that draws in a few steps; stops and goes on at any moment."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from reverie.cli.parse import parse
from reverie.cli.train import show
from reverie.data.pictures import skipped
from reverie.errors import UserError, nearest
from reverie.systems.distilled import KINDS, Distillation
from reverie.systems.shipped import open_model
from reverie.tasks.train import Session, stored
from reverie.train.training import Training

PROG = "reverie distill"
DEFAULT = "fast"


@dataclass(frozen=True)
class Distill:
    """A student of a model, which draws in a few steps."""

    method: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="METHOD")] = DEFAULT
    """A method, or a call of it, as "ect(rounds=4)"."""
    teacher: str = "reverie-avatars"
    """The model to learn from: shipped, or a file."""
    begin: str = ""
    """The model that the student begins as, as one that was reflowed before `one_step`; '' = the teacher."""
    steps: int = 2
    """Steps that a picture of the student takes."""
    minutes: float = 30.0
    """How long it learns."""
    updates: int = 0
    """Optimiser steps, in place of minutes."""
    guidance: float | None = None
    """The teacher's guidance, which the student learns; none = its own default."""
    scales: tuple[float, ...] = ()
    """Two scales of guidance, between which the student is told one when it draws; none = it has learnt --guidance."""
    source: str = ""
    """Kind of data: avatars, emoji, fashion-mnist, folder; '' = that which the teacher learnt from."""
    data: str = ""
    """Where it is: a folder or file; '' = the packaged or installed set."""
    alone: bool = False
    """Methods that need no teacher begin from its weights, and do not ask it."""
    as_lora: int = 0
    """The rank of a LoRA that learns in place of the whole net, of methods that tell it no further time; 0 = none."""
    pairs: int = 2000
    """Pictures that the teacher makes, for methods that learn from pairs."""
    rate: float = 2e-4
    """Learning rate after the warm-up."""
    batch: int = 16
    seed: int = 0
    out: str = ""
    """Folder of the run; '' = runs/METHOD-STEPS."""
    resume: bool = False
    """Go on with the run in the folder."""
    threads: int = 0
    """CPU threads; 0 = all."""


def main(arguments: Sequence[str]) -> None:
    """Distils a model."""
    if arguments and arguments[0] in ("-h", "--help"):
        names = "\n".join(f"  {name:<18} {kind.about}" for name, kind in KINDS.items())
        print(f"methods, by default {DEFAULT}:\n\n{names}\n")
    asked = parse(Distill, arguments, PROG)
    folder = Path(asked.out or f"runs/{asked.method.partition('(')[0]}-{asked.steps}")
    if asked.resume and (begun := stored(folder)):  # what it was begun with holds, unless it is said again
        asked = parse(Distill, arguments, PROG, before(begun, folder))
    recipe = recipe_of(asked)
    if asked.threads:
        torch.set_num_threads(asked.threads)
    session = Session.open(recipe, folder, asked.resume)
    for line in skipped(session.problems):
        print(f"reverie: {line}", file=sys.stderr)
    show(session)
    print(session.folder / "model.safetensors")


def before(begun: Mapping[str, Any], folder: Path) -> Distill:
    """What the run in a folder was asked for."""
    training = begun.get("training")
    if not isinstance(training, Mapping) or not {"teacher", "method", "draws"} <= begun.keys():
        raise UserError(f"{folder} holds another kind of run: name the folder of one that `reverie distill` began with --out")
    return Distill(
        method=begun["method"],
        teacher=begun["teacher"],
        begin=begun["begin"],
        steps=begun["draws"],
        guidance=begun["scale"],
        scales=tuple(begun["scales"]),
        source=begun["source"],
        data=begun["data"],
        alone=begun["data_alone"],
        as_lora=begun.get("rank", 0),
        pairs=begun["pairs"],
        minutes=training["minutes"],
        updates=training["steps"] or 0,
        rate=training["rate"],
        batch=training["batch"],
        seed=training["seed"],
    )


def recipe_of(asked: Distill) -> Distillation:
    """What is asked for, on the data of the teacher."""
    name = asked.method.partition("(")[0]
    if name not in KINDS:
        raise UserError(f"no method is called '{name}'.{nearest(name, KINDS)}")
    if not 0 <= asked.threads <= 1024:
        raise UserError(f"--threads is {asked.threads}; give a positive number up to 1024, or 0 for all")
    if asked.steps < 1:
        raise UserError(f"--steps is {asked.steps}; a picture takes 1 step or more")
    if len(asked.scales) not in (0, 2):
        raise UserError(f"--scales takes two scales of guidance, the least and the most, and {len(asked.scales)} are given")
    base = open_model(asked.teacher)
    learnt: dict[str, Any] = dict(base.about.get("recipe") or {})
    source = asked.source or learnt.get("source", "")
    if not source:
        raise UserError(f"{base.name} does not say what it learnt from: name data with --source and --data")
    training = Training(
        steps=asked.updates or None,
        minutes=asked.minutes,
        batch=asked.batch,
        rate=asked.rate,
        warmup=20,
        decay=0.5,
        widths=(0.05,),
        snapshots=0,
        seed=asked.seed,
    )
    return Distillation(
        name=f"{base.name}-{name}-{asked.steps}",
        about=f"{base.name} in {asked.steps} steps",
        source=source,
        data=asked.data or (learnt.get("data", "") if not asked.source else ""),
        size=base.defaults.size[0],
        teacher=asked.teacher,
        method=asked.method if "(" in asked.method else f"{asked.method}()",
        begin=asked.begin,
        draws=asked.steps,
        scale=asked.guidance,
        scales=tuple(asked.scales),
        data_alone=asked.alone,
        rank=asked.as_lora,
        pairs=asked.pairs,
        training=training,
    )
