"""What every command that teaches from a model is asked for, and how it goes: begun, shown, stopped, taken up again."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from reverie.cli.parse import parse
from reverie.cli.train import show
from reverie.data.pictures import skipped
from reverie.errors import UserError
from reverie.tasks.train import Session, stored
from reverie.train.estimate import advice, told, tried
from reverie.train.mixed import Mixed
from reverie.train.training import Training

WRITTEN = ("lora.safetensors", "embedding.safetensors", "model.safetensors")


@dataclass(frozen=True, kw_only=True)
class Learning(ABC):
    """How long and how hard, and where the run lies."""

    minutes: float = 10.0
    """How long it learns."""
    updates: int = 0
    """Optimiser steps, in place of minutes."""
    rate: float = 1e-3
    """Learning rate after the warm-up."""
    batch: int = 8
    seed: int = 0
    out: str = ""
    """Folder of the run; '' = a name of its own in runs."""
    resume: bool = False
    """Go on with the run in the folder."""
    threads: int = 0
    """CPU threads; 0 = all."""

    @property
    @abstractmethod
    def place(self) -> str:
        """The name of its folder in runs."""

    @abstractmethod
    def recipe(self) -> Any:
        """What is asked for; UserError where it cannot be."""

    def ready(self, folder: Path) -> Self:
        """The same once what it needs beside its data is there, as pictures of its own that it draws first."""
        return self

    @classmethod
    @abstractmethod
    def begun(cls, recipe: Mapping[str, Any]) -> dict[str, Any] | None:
        """What the run of a stored recipe was asked for, beside how long and how hard; None where another command began it."""

    @classmethod
    def before(cls, recipe: Mapping[str, Any], folder: Path, prog: str) -> Self:
        """What the run in a folder was asked for."""
        own, training = cls.begun(recipe), recipe.get("training")
        if own is None or not isinstance(training, Mapping):
            raise UserError(f"{folder} holds another kind of run: name the folder of one that `{prog}` began with --out")
        held = {name: training[name] for name in ("minutes", "rate", "batch", "seed")}
        return cls(**own, **held, updates=training["steps"] or 0)

    def training(self) -> Training:
        """The same for the loop, of models that know much already."""
        return Training.gentle(self.updates, self.minutes, self.batch, self.rate, self.seed)


def learn(kind: type[Learning], arguments: Sequence[str], prog: str) -> None:
    """Runs the command to its end."""
    asked = parse(kind, arguments, prog)
    folder = Path(asked.out or f"runs/{asked.place}")
    if asked.resume and (begun := stored(folder)):  # what it was begun with holds, unless it is said again
        asked = parse(kind, arguments, prog, kind.before(begun, folder, prog))
    if not 0 <= asked.threads <= 1024:
        raise UserError(f"--threads is {asked.threads}; give a positive number up to 1024, or 0 for all")
    if asked.threads:
        torch.set_num_threads(asked.threads)
    recipe = asked.ready(folder).recipe()
    session = Session.open(recipe, folder, asked.resume)
    for line in skipped(session.problems):
        print(f"reverie: {line}", file=sys.stderr)
    if isinstance(session.run.job, Mixed):
        print(f"reverie: {told(tried(session.run), session.run, session.run.job.visits)}", file=sys.stderr)
    show(session)
    if said := advice(session.folder / "log.jsonl"):
        print(f"reverie: {said}", file=sys.stderr)
    for name in WRITTEN:
        if (path := session.folder / name).exists():
            print(path)
