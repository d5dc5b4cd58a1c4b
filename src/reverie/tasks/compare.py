"""Settings side by side: a grid of pictures over two of them, what each cell costs, and how far it is from a long run.

With ever more steps, all solvers of the probability-flow ODE end in the same picture, which prompt, seed, guidance and model alone
decide. A long run stands for it, and the distance of a cell is, over all pixels p of its pictures and q of the long run's,

    d = sqrt(mean (p - q)^2),    in the 256 levels of a picture                                                   (1)

Of finished pictures and not in the codec's space, because that is what is seen, and because a level is the same with every model.
Below about half a level nothing but rounding is left. A solver that draws noise ends in another picture on purpose: it has no
distance.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reverie.data.sheet import sheet
from reverie.errors import UserError, nearest
from reverie.files import write_whole
from reverie.measure.report import aligned
from reverie.solve import rehearse
from reverie.systems import System, open_model
from reverie.tasks import metadata
from reverie.tasks.generate import Diverged, Picture, Preview, run
from reverie.tasks.settings import Settings, wanted
from reverie.tasks.start import plan

AXES = ("solver", "steps", "guidance", "grid", "seed", "style", "negative", "prompt", "model")
LONG = "dpmpp-3m"  # of 100 steps: as near to the limit as Heun's 199 evaluations, also where lam(1) is infinite, at half the cost
STEPS = 100
WIDTH = 128  # pixels that a cell has at least, or nearly, so that its labels have room: small pictures are enlarged


@dataclass(frozen=True)
class Axis:
    """A setting and the values it takes; without a name, an axis that was left out."""

    name: str = ""
    values: tuple[Any, ...] = (None,)

    def __post_init__(self) -> None:
        if self.name and self.name not in AXES:
            raise UserError(f"'{self.name}' is no setting to compare.{nearest(self.name, AXES)}")
        if not self.values:
            raise UserError(f"{self.name} has no values to compare: give at least one")


@dataclass(frozen=True)
class Work:
    """One call of `run`, and how many evaluations of the net it takes per picture."""

    system: System = field(repr=False)
    settings: Settings
    nfe: int

    @property
    def total(self) -> int:
        return self.nfe * len(self.settings.prompts())


@dataclass(frozen=True)
class Cell:
    """place: the value of each axis. model: as it was given. long: the run it is compared with, if it can be."""

    place: Mapping[str, Any]
    model: str
    work: Work
    long: Work | None
    noisy: bool


@dataclass(frozen=True)
class Result:
    """What came out of a cell: no pictures where sampling diverged. distance: eq. (1), where there is one."""

    cell: Cell
    pictures: Sequence[Picture]
    distance: float | None

    @property
    def note(self) -> str:
        """Why there is no distance, or no picture."""
        if not self.pictures:
            return "diverged"
        lost = self.cell.long is not None and self.distance is None
        return "draws noise" if self.cell.noisy else "reference diverged" if lost else ""

    def row(self) -> dict[str, Any]:
        """Plain values; nfe and seconds are a picture's."""
        nfe, seconds = (_mean([getattr(p, name) for p in self.pictures]) for name in ("nfe", "seconds"))
        cost = {"nfe": nfe, "seconds": None if seconds is None else round(seconds, 3)}
        apart = None if self.distance is None else round(self.distance, 3)
        return {**self.cell.place, **cost, "distance": apart, "note": self.note}


@dataclass(frozen=True)
class Comparison:
    """Columns, rows, and the cells row by row: everything is checked, nothing is drawn."""

    x: Axis
    y: Axis
    cells: tuple[Cell, ...]

    @property
    def axes(self) -> list[Axis]:
        """Those that were not left out."""
        return [axis for axis in (self.x, self.y) if axis.name]

    @property
    def total(self) -> int:
        """Evaluations of the net for a picture each, all in all."""
        longs = {_key(cell): cell.long.total for cell in self.cells if cell.long}
        return sum(cell.work.total for cell in self.cells) + sum(longs.values())


Tick = Callable[[int], object]


def prepare(
    asked: Mapping[str, Any], x: Axis, y: Axis, *, steps: int = STEPS, load: Callable[[str], System] = open_model
) -> Comparison:
    """The comparison of what is asked (model, prompt and settings of `generate`, by name), changed along the axes.

    steps: of the long run; 0 = none. load: gives the system of a model. Whatever is wrong with a cell is a UserError here: a step
    of each is tried.
    """
    _check(x, y, steps)
    wishes = []
    for below in y.values:
        for beside in x.values:
            place = {axis.name: value for axis, value in ((x, beside), (y, below)) if axis.name}
            own = {**asked, **place}
            model, prompt = own.pop("model"), own.pop("prompt")
            wishes.append((place, model, wanted(prompt, own)))
    systems = {model: load(model) for model in dict.fromkeys(model for _, model, _ in wishes)}
    cells = [_cell(place, model, systems[model], wish.filled(systems[model]), steps) for place, model, wish in wishes]
    for cell in cells:
        _try(cell.work)
    return Comparison(x, y, tuple(cells))


def _check(x: Axis, y: Axis, steps: int) -> None:
    if x.name == y.name:
        raise UserError(
            f"'{x.name}' is on both axes: give each its own"
            if x.name
            else "nothing to compare: give --x, --y, or both, as --x steps=5,10"
        )
    if steps < 0:
        raise UserError(f"the reference has {steps} steps: give a positive number, or 0 for no reference")


def _cell(place: Mapping[str, Any], model: str, system: System, settings: Settings, steps: int) -> Cell:
    work, noisy = _rehearsed(system, settings)
    if noisy or not steps:
        return Cell(place, model, work, None, noisy)
    long = replace(settings, solver=LONG, steps=steps, grid=system.defaults.grid)
    try:
        return Cell(place, model, work, _rehearsed(system, long.filled(system))[0], noisy)
    except UserError as error:
        raise UserError(f"the reference cannot be made: {error}") from None


def _rehearsed(system: System, settings: Settings) -> tuple[Work, bool]:
    solver, grid = plan(system, settings)
    nfe, noisy = rehearse(solver, system.denoiser.path, grid)
    return Work(system, settings, nfe), noisy


def _try(work: Work) -> None:
    """A step of one picture: finds what only the model can say, and pays for the first use of its nets, which is slower."""
    first = next(run(work.system, replace(work.settings, prompt=work.settings.prompt[:1], count=1)))
    assert isinstance(first, Preview)
    first.pictures()


def results(comparison: Comparison, tick: Tick = lambda evaluations: None) -> Iterator[Result]:
    """Every cell, as it is finished. tick: called with the evaluations that were done, for progress towards `total`."""
    longs: dict[Any, list[Picture]] = {}
    for cell in comparison.cells:
        if cell.long and _key(cell) not in longs:
            longs[_key(cell)] = _pictures(cell.long, tick)
        yield _result(cell, _pictures(cell.work, tick), longs.get(_key(cell), []))


def _key(cell: Cell) -> Any:
    """Cells that differ in solver, steps and grid only share their long run."""
    return cell.model, cell.long and cell.long.settings


def _pictures(work: Work, tick: Tick) -> list[Picture]:
    """What the settings make; nothing, where sampling diverges."""
    made: list[Picture] = []
    seen = 0
    try:
        for event in run(work.system, work.settings):
            if isinstance(event, Preview):
                tick((event.step.nfe - seen) * len(event.step.x))
                seen = event.step.nfe
            else:
                made, seen = made + event, 0
    except Diverged:
        return []
    return made


def _result(cell: Cell, made: Sequence[Picture], long: Sequence[Picture]) -> Result:
    return Result(cell, made, distance(made, long) if made and long else None)


def distance(made: Sequence[Picture], others: Sequence[Picture]) -> float:
    """Eq. (1)."""
    p, q = (np.stack([np.asarray(one.image, np.float64) for one in some]) for some in (made, others))
    return float(np.sqrt(np.square(p - q).mean()))


def _mean(values: Sequence[float]) -> float | None:
    mean = sum(values) / len(values) if values else None
    return int(mean) if mean is not None and mean == int(mean) else mean


def picture(comparison: Comparison, found: Sequence[Result]) -> Image.Image:
    """All cells, labelled."""
    blocks = [_block([p.image for p in one.pictures]) for one in found]
    above, left = (_labels(axis) for axis in (comparison.x, comparison.y))
    scale = max(1, round(WIDTH / max(block.width for block in blocks)))
    title, below = _title(comparison), [_caption(one) for one in found]
    return sheet(blocks, len(comparison.x.values), scale=scale, gap=8, title=title, above=above, left=left, below=below)


def _block(images: Sequence[Image.Image]) -> Image.Image:
    if not images:
        return Image.new("RGB", (1, 1), "white")
    return images[0] if len(images) == 1 else sheet(images, gap=2)


def _labels(axis: Axis) -> list[str]:
    return [f"{axis.name} {_said(value)}" for value in axis.values] if axis.name else []


def _said(value: Any) -> str:
    return "default" if value is None else str(value).removesuffix(".0") or '""'


def _title(comparison: Comparison) -> str:
    """What all cells have in common, the prompt first."""
    settings = [cell.work.settings for cell in comparison.cells]
    names = [name for name in AXES if name not in ("prompt", "model", *(axis.name for axis in comparison.axes))]
    common = {name: {getattr(s, name) for s in settings} for name in names}
    common["model"] = {cell.work.system.name for cell in comparison.cells}
    words = [" | ".join(map(str, words)) for words in {s.prompt for s in settings}]
    words = words if len(words) == 1 else []
    words += [f"{name} {_said(*values)}" for name, values in common.items() if len(values) == 1 and values != {""}]
    return ", ".join(word for word in words if word)


def _caption(one: Result) -> str:
    nfe = f"NFE {one.row()['nfe'] or one.cell.work.nfe:g}"
    return f"{nfe}, {one.note}" if one.note else nfe if one.distance is None else f"{nfe}, distance {one.distance:.1f}"


def table(comparison: Comparison, found: Sequence[Result]) -> str:
    """Plain text, a line per cell; "-" where nothing was measured."""
    lines = [[*(axis.name for axis in comparison.axes), "NFE", "s/picture", "distance", ""]]
    for one in found:
        place, row = [_said(value) for value in one.cell.place.values()], one.row()
        numbers = [(row["nfe"], "{:g}"), (row["seconds"], "{:.2f}"), (row["distance"], "{:.2f}")]
        lines.append([*place, *("-" if n is None else form.format(n) for n, form in numbers), one.note])
    return aligned(lines)


def record(comparison: Comparison, found: Sequence[Result]) -> dict[str, Any]:
    """What was compared and what came out, but not how long it took: the same again makes the same file."""
    cells = []
    for one in found:
        row = one.row()
        told = {"model": metadata.source(one.cell.work.system, one.cell.model), "settings": asdict(one.cell.work.settings)}
        long = one.cell.long and {k: getattr(one.cell.long.settings, k) for k in ("solver", "steps", "grid")}
        cells.append({**told, "reference": long, **{k: row[k] for k in ("nfe", "distance", "note")}})
    x, y = (asdict(axis) if axis.name else None for axis in (comparison.x, comparison.y))
    return {"reverie": 1, "x": x, "y": y, "cells": cells}


def save(comparison: Comparison, found: Sequence[Result], path: Path) -> None:
    """The picture, with what was compared as its text, and beside it the table as .csv."""
    text = {metadata.COMPARISON: json.dumps(record(comparison, found))}
    metadata.write(picture(comparison, found), path, text)
    write_whole(path.with_suffix(".csv"), lambda part: _csv([one.row() for one in found], part))


def _csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
