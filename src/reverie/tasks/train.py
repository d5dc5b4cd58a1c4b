"""A training run in a folder: recipe in, model out, everything in between safe on disk.

FOLDER/recipe.json, log.jsonl, events.* (TensorBoard, where installed), checkpoint.safetensors, snapshot-*.safetensors,
previews/*.png, model.safetensors; of a LoRA lora.safetensors, too
"""

import contextlib
import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reverie.card import parse, rebuild
from reverie.codec import Points
from reverie.data.sheet import sheet
from reverie.errors import UserError
from reverie.files import load_tensors, write_whole
from reverie.nets.lora import changes
from reverie.process.grids import GRIDS
from reverie.systems.lora import save_lora
from reverie.systems.recipe import recipe_card
from reverie.systems.system import System
from reverie.systems.weights import save
from reverie.tasks.generate import generate, to_images
from reverie.tasks.settings import meant
from reverie.train.ema import combine, split
from reverie.train.loop import Finishing, Key, Progress, Run, Showing, fit
from reverie.train.training import Training

RECIPE = "recipe.json"
LARGEST = 1_000_000  # of the numbers of a recipe
MISFITS = (ValueError, RuntimeError, IndexError, ArithmeticError, AttributeError, TypeError, MemoryError)
MAY_CHANGE = ("steps", "minutes", "save_minutes", "validate_minutes")


@runtime_checkable
class Writing(Protocol):
    """What is trained beside a model that stays as it is, and writes itself."""

    def write(self, path: Path) -> None: ...


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
        if existing:
            _same(plain(recipe), stored(folder) or {}, folder)
        pictures, system, job = _fitting(recipe)
        session = cls(recipe, system, Run(job, recipe.training, folder), folder, getattr(pictures, "problems", ()))
        if existing:
            session.run.resume()
        write_whole(folder / RECIPE, lambda p: p.write_text(json.dumps(plain(recipe), indent=1)))
        return session

    def __iter__(self) -> Iterator[Progress]:
        """Trains to the end; logs, previews and the model are written on the way, and a failing one never ends the run."""
        self._cut()
        board = _board(self.folder, self.run.step)
        try:
            for now in fit(self.run):
                if now.validation is not None or now.step % 20 == 0 or now.saved:
                    self._log(now, board)
                if now.validation is not None:
                    self._preview(now)
                yield now
        finally:
            written, good = self.export(), self.run.step
            if written is None and os.path.exists(self.run.checkpoint):  # what was good last is worth having
                with contextlib.suppress(UserError):
                    self.run.restore()
                    good = self.run.step if self.export() else 0
        if written is None:
            kept = f"what it was at step {good} was written" if good else "nothing was written"
            raise UserError(f"training diverged: the model it ends with is spoilt; {kept}; {self.run.remedy}")

    def _cut(self) -> None:
        """The log says nothing of steps that a run takes again, which was killed after its last checkpoint; nor half a line."""
        path = self.folder / "log.jsonl"
        with contextlib.suppress(OSError, UserError):
            lines = path.read_text().splitlines(keepends=True)
            kept = [line for line in lines if _step(line) <= self.run.step]
            if kept != lines:
                write_whole(path, lambda part: part.write_text("".join(kept)))

    def _log(self, now: Progress, board: Any) -> None:
        values = {"loss": now.loss, "rate": self.run.rate()} | ({} if now.validation is None else {"validation": now.validation})
        line: dict[str, Any] = {"step": now.step, "steps": now.steps, "seconds": round(now.seconds, 2)}
        line |= {k: float(f"{v:.6g}") if math.isfinite(v) else None for k, v in values.items()}
        with contextlib.suppress(OSError):  # a full disk must not end the run
            with (self.folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            if board is not None:
                for name, value in values.items():
                    board.add_scalar(name, value, now.step)

    def _preview(self, now: Progress) -> None:
        system = getattr(self.system, "system", self.system)
        if not isinstance(system, System) and not isinstance(self.run.job, Showing):
            return
        try:
            with self.run.averaged():
                picture = preview(self.recipe, system, self.run.job)
            write_whole(self.folder / "previews" / f"{now.step:07d}.png", lambda p: picture.save(p, "PNG"))
        except Exception as error:
            self.run.complaint = f"the preview at step {now.step} failed ({error}); the run goes on"

    def reaverage(self, width: float) -> Path:
        """Writes the model with averages of another relative length, made from the run's snapshots (arXiv 2312.02696)."""
        found = snapshots(self.folder, width)
        stored = [entry for path in found for entry in split(int(path.stem[9:]), load_tensors(path)[0])]
        self.run.job.module.load_state_dict({k: v.float() for k, v in combine(stored, width).items()})
        path = self.folder / f"model-{width:g}.safetensors"
        self._write(path, {})
        return path

    def export(self) -> Path | None:
        """Writes the averaged model as a file that `reverie generate --model` opens; where spoilt, keeps the one before: None."""
        if self.run.spoilt():
            return None
        path = self.folder / "model.safetensors"
        with self.run.averaged():
            done = {"steps": self.run.step, "seconds": round(self.run.seconds)}
            self._write(path, done if self.run.step == self.run.steps else {**done, "planned": self.run.steps})
        return path

    def _write(self, path: Path, about: Mapping[str, Any]) -> None:
        """The model as its weights are now, with what the job has to measure on them."""
        found = self.run.job.finish() if isinstance(self.run.job, Finishing) else {}
        made = replace(self.system, about={**self.system.about, **about, **found})
        if isinstance(made, Writing):
            made.write(path)
        else:
            save(made, path)
            if isinstance(made, System) and any(changes(made.denoiser)):
                told = made.about.get("distilled", {})
                base = {"name": told.get("teacher", ""), "hash": told.get("hash", "")}
                save_lora(made, path.with_name(path.name.replace("model", "lora")), base, made.about, made.defaults)


def snapshots(folder: Path, width: float) -> list[Path]:
    """The stored averages of a run, of which one of this relative length can be made; UserError where it cannot."""
    if not 0 < width < 0.28:
        raise UserError(f"an average of relative length {width} cannot be made: choose one between 0 and 0.28")
    found = sorted(folder.glob("snapshot-*.safetensors"))
    if not found or stored(folder) is None:
        raise UserError(f"{folder} has no snapshots: train with --snapshots 8 or so, to the end")
    return found


def _step(line: str) -> float:
    """Of a line of the log; infinite where it cannot be read."""
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


def plain(recipe: Any) -> dict[str, Any]:
    """The recipe as it stands in recipe.json."""
    card: dict[str, Any] = json.loads(json.dumps(recipe_card(recipe)))
    return card


def stored(folder: Path) -> dict[str, Any] | None:
    """The recipe that the run in this folder was begun with, if there is one."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder / RECIPE).read_text())
        return found if isinstance(found, dict) else None
    return None


def restored(preset: Any, values: Mapping[str, Any]) -> Any:
    """The preset with the values of a stored recipe, field by field."""
    given = {}
    for f in fields(preset):
        if f.init and f.name in values and f.name not in ("name", "about"):
            old, new = getattr(preset, f.name), values[f.name]
            if f.name == "steps" and new == 0:  # as older runs said that there is no number of steps
                new = None
            if not isinstance(new, Mapping):
                given[f.name] = _tuples(new)
            elif is_dataclass(old):
                given[f.name] = restored(old, new)
    return replace(preset, **given)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _same(now: Mapping[str, Any], before: Mapping[str, Any], folder: Path, where: str = "") -> None:
    """Refuses to go on with another recipe than the run was begun with; only its length and its clocks may change."""
    for name in sorted(now.keys() & before.keys() - set(MAY_CHANGE)):
        if isinstance(now[name], dict) and isinstance(before[name], dict):
            _same(now[name], before[name], folder, "" if name == "training" else f"{where}{name}.")
        elif now[name] != before[name]:
            flag = f"--{where}{name}".replace("_", "-")
            raise UserError(
                f"{folder} was begun with {flag} {before[name]}, not {now[name]}: leave it out, or choose another --out"
            )


def _fitting(recipe: Any) -> tuple[Any, Any, Any]:
    """Pictures, system and job, tried on two examples: what does not fit together is found before the first step."""
    _numbers(recipe)
    try:
        pictures = recipe.pictures()
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Initializing zero-element")  # a net without width would train on, and learn nothing
            system, job = recipe.prepare(pictures)
        if isinstance(system, System):
            meant(system.defaults.solver)
            rebuild(parse(system.defaults.grid), GRIDS, "grid")(system.denoiser.path, system.defaults.steps)
        with torch.no_grad():
            job.loss(np.arange(min(2, job.size)), Key(recipe.training.seed, 0))
    except UserError:
        raise
    except MISFITS as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"the recipe '{recipe.name}' does not fit together: {said}") from error
    return pictures, system, job


def _numbers(recipe: Any, where: str = "") -> None:
    """No number of a recipe is infinite, none, or fills the memory; those of the training are its own to judge."""
    for f in fields(recipe):
        value = getattr(recipe, f.name)
        if is_dataclass(value) and not isinstance(value, Training):
            _numbers(value, f"{where}{f.name}.")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, (int, float)) and not abs(number) <= LARGEST:
                flag = f"--{where}{f.name}".replace("_", "-")
                raise UserError(f"{flag} is {number}; it must lie between -{LARGEST} and {LARGEST}")
        if f.name == "count" and value < 2:
            raise UserError(f"--count is {value}; give 2 or more: one is trained on, and one held out")
        if f.name in ("width", "channels") and value < 1:
            raise UserError(f"--{where}{f.name} is {value}; a net needs 1 or more")


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)  # what comes after is taken again


def preview(recipe: Any, system: System, job: Any) -> Image.Image:
    """A sheet of pictures with fixed seeds, from prompts the system can take; of points, where they lie; or the job's own."""
    if isinstance(job, Showing):
        return sheet(to_images(job.shown()), 8)
    if isinstance(system.codec, Points):
        return scatter(system, job.data)
    return sheet(generate(system, list(recipe.prompts(system)), seed=1, batch=64))


def scatter(system: System, data: Tensor, count: int = 512) -> Image.Image:
    """Points that the system makes, in red over the data (N, 2) in grey."""
    made = torch.from_numpy(np.stack([np.asarray(i) for i in generate(system, "", count=count, seed=1, batch=count)])).amax(0) > 0
    given = system.codec.decode(data[: 8 * count]).amax((0, 1)) > 0
    pixels = torch.full((*given.shape, 3), 255, dtype=torch.uint8)
    pixels[given] = torch.tensor([190, 190, 190], dtype=torch.uint8)
    pixels[made] = torch.tensor([200, 30, 30], dtype=torch.uint8)
    return Image.fromarray(pixels.numpy()).resize((256, 256), Image.Resampling.NEAREST)
