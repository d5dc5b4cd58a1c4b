"""A training run in a folder: recipe in, model out, everything in between safe on disk.

FOLDER/recipe.json, log.jsonl, events.* (TensorBoard, where installed), checkpoint.safetensors, snapshot-*.safetensors,
previews/*.png, model.safetensors
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reverie.errors import UserError
from reverie.files import load_tensors, write_whole
from reverie.systems.recipe import Recipe, recipe_card
from reverie.systems.system import System
from reverie.systems.weights import save
from reverie.tasks.generate import generate
from reverie.tasks.sheet import sheet
from reverie.train.ema import combine, split
from reverie.train.loop import Progress, Run, fit


@dataclass(frozen=True)
class Session:
    """A run with its folder and the system it makes."""

    recipe: Any
    system: System
    run: Run
    folder: Path
    problems: tuple[str, ...] = ()
    """What was skipped when the pictures were read, one line each."""

    @classmethod
    def open(cls, recipe: Any, folder: Path, resume: bool) -> "Session":
        """A fresh run, or the one in the folder taken up where it stopped."""
        existing = os.path.exists(folder / "checkpoint.safetensors")  # Path.exists raises in a folder that is not ours to read
        if existing and not resume:
            raise UserError(f"{folder} already holds a run: add --resume to go on with it, or choose another --out")
        pictures = recipe.pictures()
        system, job = recipe.prepare(pictures)
        session = cls(recipe, system, Run(job, recipe.training, folder), folder, getattr(pictures, "problems", ()))
        if existing:
            session.run.resume()
        write_whole(folder / "recipe.json", lambda p: p.write_text(json.dumps(recipe_card(recipe), indent=1)))
        return session

    def __iter__(self) -> Iterator[Progress]:
        """Trains to the end; logs, previews and the model are written on the way, and a failing one never ends the run."""
        board = _board(self.folder)
        try:
            for now in fit(self.run):
                if now.validation is not None or now.step % 20 == 0 or now.saved:
                    self._log(now, board)
                if now.validation is not None and now.step != self.run.steps:
                    self._preview(now)
                yield now
        finally:
            self.export()

    def _log(self, now: Progress, board: Any) -> None:
        line = {"step": now.step, "steps": now.steps, "seconds": round(now.seconds, 2), "loss": round(now.loss, 5)}
        line |= {"rate": self.run.rate()} | ({} if now.validation is None else {"validation": round(now.validation, 5)})
        with contextlib.suppress(OSError):  # a full disk must not end the run
            with (self.folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            if board is not None:
                for name in line.keys() - {"step", "steps", "seconds"}:
                    board.add_scalar(name, line[name], now.step)

    def _preview(self, now: Progress) -> None:
        if not isinstance(self.recipe, Recipe):
            return
        try:
            with self.run.averaged():
                picture = preview(self.recipe, self.system)
            write_whole(self.folder / "previews" / f"{now.step:07d}.png", lambda p: picture.save(p, "PNG"))
        except Exception as error:
            self.run.complaint = f"the preview at step {now.step} failed ({error}); the run goes on"

    def reaverage(self, width: float) -> Path:
        """Writes the model with averages of another relative length, made from the run's snapshots (arXiv 2312.02696)."""
        if not 0 < width < 0.28:
            raise UserError(f"an average of relative length {width} cannot be made: choose one between 0 and 0.28")
        found = sorted(self.folder.glob("snapshot-*.safetensors"))
        if not found:
            raise UserError(f"{self.folder} has no snapshots: train with --snapshots 8 or so, to the end")
        stored = [entry for path in found for entry in split(int(path.stem[9:]), load_tensors(path)[0])]
        self.run.job.module.load_state_dict({k: v.float() for k, v in combine(stored, width).items()})
        path = self.folder / f"model-{width:g}.safetensors"
        save(self.system, path)
        return path

    def export(self) -> Path:
        """Writes the averaged model as a file that `reverie generate --model` opens."""
        path = self.folder / "model.safetensors"
        with self.run.averaged():
            about = self.system.about | {"steps": self.run.step, "seconds": round(self.run.seconds)}
            save(replace(self.system, about=about), path)
        return path


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))


def preview(recipe: Recipe, system: System) -> Any:
    """A sheet of pictures with fixed seeds, from prompts the system can take."""
    return sheet(generate(system, list(recipe.prompts(system)), seed=1, batch=64))
