"""`reverie train RECIPE`: progress with ETA, validation, previews; stops and goes on at any step."""

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from tqdm import tqdm

from reverie.cli.parse import parse
from reverie.data.pictures import skipped
from reverie.errors import UserError, nearest
from reverie.systems.recipes import RECIPES
from reverie.tasks.train import Session, restored, snapshots, stored


def main(arguments: Sequence[str]) -> None:
    """Trains a recipe."""
    names = "\n".join(f"  {name:<14} {recipe.about}" for name, recipe in RECIPES.items())
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: reverie train RECIPE [--out DIR] [--resume] [any field of the recipe]\n\n{names}")
        return
    name = arguments[0]
    if name not in RECIPES:
        raise UserError(f"no recipe is called '{name}'.{nearest(name, RECIPES)}")
    recipe, place = _read(RECIPES[name], arguments[1:], name)
    folder = Path(place.out or f"runs/{name}")
    _check(place, folder)
    if place.threads:
        torch.set_num_threads(place.threads)
    if place.resume or place.average:
        if begun := stored(folder):  # what it was begun with holds, unless it is said again
            recipe, place = _read(restored(RECIPES[name], begun), arguments[1:], name)
        else:
            print(f"reverie: {folder} holds no run yet: beginning one", file=sys.stderr)
        if begun and place.resume and not os.path.exists(folder / "checkpoint.safetensors"):
            print(f"reverie: {folder} holds no checkpoint yet: beginning anew, with an empty log", file=sys.stderr)
    session = Session.open(recipe, folder, place.resume or bool(place.average))
    for line in skipped(session.problems):
        print(f"reverie: {line}", file=sys.stderr)
    if place.average:
        print(session.reaverage(place.average))
        return
    show(session)
    print(session.folder / "model.safetensors")


@dataclass(frozen=True)
class Place:
    """Where a run lives."""

    out: str = ""
    """Folder of the run; '' = runs/RECIPE."""
    resume: bool = False
    """Go on with the run in the folder."""
    average: float = 0.0
    """Do not train: write the model of a finished run with averages of this relative length, 0.01 to 0.27."""
    threads: int = 0
    """CPU threads; 0 = all."""


def _check(place: Place, folder: Path) -> None:
    """What can be refused before anything is read or written is."""
    if not 0 <= place.threads <= 1024:
        raise UserError(f"--threads is {place.threads}; give a positive number up to 1024, or 0 for all")
    if place.average:
        snapshots(folder, place.average)


def _read(preset: Any, arguments: Sequence[str], name: str) -> tuple[Any, Place]:
    default = _command(preset)
    command = parse(type(default), arguments, f"reverie train {name}", default)
    return _timed(command.recipe, arguments), command.place


def _command(preset: Any) -> Any:
    """All that can be said after the name of a recipe."""
    kind = type(preset)

    @dataclass(frozen=True)
    class Command:
        recipe: Annotated[kind, tyro.conf.arg(name="")] = preset  # type: ignore[valid-type]
        place: Annotated[Place, tyro.conf.arg(name="")] = field(default_factory=Place)

    return Command()


def _timed(recipe: Any, arguments: Sequence[str]) -> Any:
    """A time that is given holds in place of a preset's number of steps; one of the two would be ignored."""
    given = {word.partition("=")[0] for word in arguments}
    if "--minutes" not in given:
        return recipe
    if "--steps" in given:
        raise UserError("--steps and --minutes both say how long to train: give one of them")
    return replace(recipe, training=replace(recipe.training, steps=None))


def show(session: Session) -> None:
    """Runs to the end, with progress; the first signal to stop ends it after the step it is in."""
    bar = tqdm(initial=session.run.step, total=session.run.steps or None, unit="step", file=sys.stderr, dynamic_ncols=True)
    loss, validation = 0.0, ""

    def stop(*signal_and_frame: object) -> None:
        session.run.stop = True
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C does not wait for the step

    before = [signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)]
    try:
        for now in session:
            loss = now.loss if not loss else 0.98 * loss + 0.02 * now.loss
            validation = validation if now.validation is None else f", validation {now.validation:.4f}"
            if now.steps and bar.total != now.steps:
                bar.total = now.steps
            bar.set_postfix_str(f"loss {loss:.4f}{validation}", refresh=False)
            bar.update(now.step - bar.n)
            if session.run.complaint:
                bar.write(f"reverie: {session.run.complaint}", file=sys.stderr)
                session.run.complaint = ""
    finally:
        bar.close()
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
    if session.run.stop:
        print(f"reverie: stopped at step {session.run.step}; the same command with --resume goes on", file=sys.stderr)
        sys.exit(130)
