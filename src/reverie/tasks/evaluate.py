"""Measuring a system: distances from real pictures, agreement with what was asked, copies and time.

Real pictures and noise are measured in the same way: the floor and the ceiling, between which a number means something.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from reverie.data.emoji_prompts import parted
from reverie.data.pictures import Pictures
from reverie.data.sets import KINDS, Kind, kind_of, open_pictures
from reverie.errors import UserError
from reverie.measure.agreement import Agreement, shown
from reverie.measure.report import Row, Yardstick, noise
from reverie.systems import System
from reverie.tasks.generate import Picture, run
from reverie.tasks.judges import JUDGES, Judge, Real
from reverie.tasks.settings import settle

Progress = Callable[[int, int], object]


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """What came out. rows: the model, real pictures, noise. marks: agreement, by kind of prompt."""

    rows: Sequence[Row]
    marks: Mapping[str, Agreement]
    space: str
    """Whose features the distances are taken in."""
    references: int

    def record(self) -> dict[str, Any]:
        """Plain values."""
        agreed = {k: {"overall": m.overall, "asked": sum(m.asked.values()), "each": m.each} for k, m in self.marks.items()}
        return {"features": self.space, "rows": [asdict(r) for r in self.rows], "agreement": agreed}


def evaluate(system: System, samples: int = 500, *, data: str = "", progress: Progress | None = None, **settings: Any) -> Sheet:
    """Makes `samples` pictures and measures them. settings: those of `generate`; progress(done, count) is called on the way.

    data: real pictures, a folder or file; '' = those it was trained on. Compare only Frechet distances of the same number.
    """
    if samples < 10:
        raise UserError(f"{samples} samples are too few: distances need at least 10, and mean something from about 200")
    source = _source(system)
    real = _real(system, source, samples, data)
    judge = JUDGES[source](system, real, samples, settings.get("seed", 0))
    made: list[Picture] = []
    for event in run(system, settle(system, list(judge.prompts), settings)):
        if isinstance(event, list):
            made += event
            if progress:
                progress(len(made), len(judge.prompts))
    return _measure(system, real, judge, made, samples)


def _source(system: System) -> str:
    source: str | None = system.about.get("recipe", {}).get("source")
    if source is None:
        raise UserError(f"{system.name} names no pictures that it was trained on: evaluate a model of {', '.join(KINDS)}")
    return source


def _real(system: System, source: str, samples: int, data: str) -> Real:
    kind, size, own = kind_of(source), system.defaults.size[0], system.about["recipe"].get("data", "")
    where = data or _whereabouts(kind, own)
    pictures = open_pictures(source, where, size)
    rest, reference, floor = _halves(pictures, samples)
    if kind.test:
        floor = _some(kind.test(where, size), samples)
    return Real(rest, reference, floor, pictures, _seen(system, pictures))


def _whereabouts(kind: Kind, data: str) -> str:
    """Where the model's own pictures are; the packaged or installed set where that file is gone."""
    return data if not kind.packaged or os.path.exists(data) else ""


def _seen(system: System, pictures: Pictures) -> tuple[Pictures, Pictures] | None:
    """(training, held out), if these are what the model's file says it was trained on: the same name, and as many."""
    told = system.about.get("data", {})
    if (told.get("name"), told.get("count")) != (pictures.name, len(pictures)):
        return None
    if told.get("held_out") == "concepts":
        return parted(pictures)
    holdout = system.about.get("recipe", {}).get("training", {}).get("holdout", 256)
    return pictures.split(min(holdout, max(1, len(pictures) // 10)))


def _halves(pictures: Pictures, samples: int) -> tuple[Pictures, Pictures, Pictures]:
    """(rest, reference, floor): the last two of `samples` pictures, or of half of all; no reader was trained on the floor."""
    n = min(samples, len(pictures) // 2)
    rest, floor = pictures.split(max(n, min(1000, len(pictures) // 2)))
    return rest, _some(rest, n), _some(floor, n)


def _some(pictures: Pictures, count: int) -> Pictures:
    return pictures.take(np.random.default_rng(1).permutation(len(pictures))[:count])


def array(pictures: Sequence[Picture]) -> np.ndarray:
    """uint8 (N, C, H, W) of finished pictures."""
    arrays = [np.asarray(p.image) for p in pictures]
    return np.stack([a[None] if a.ndim == 2 else a.transpose(2, 0, 1) for a in arrays])


def _measure(system: System, real: Real, judge: Judge, made: Sequence[Picture], samples: int) -> Sheet:
    images = array(made)
    plain, empty = images[:samples], noise(images[:samples])
    yard = Yardstick(judge.features, real.reference.images, real.seen and (real.seen[0].images, real.seen[1].images))
    marks, first = {}, judge.begins
    for kind, asked in judge.asked.items():
        assert judge.reader is not None
        marks[kind] = shown(images[first : first + len(asked.prompts)], asked.attributes, judge.reader)
        first += len(asked.prompts)
        if kind in judge.genuine:
            marks[f"{kind}, in real pictures"] = shown(*judge.genuine[kind], judge.reader)
    own = floor = ceiling = None
    if judge.reader is not None:
        wanted = next(iter(judge.asked.values())).attributes
        own = next(iter(marks.values())).overall
        floor = shown(*next(iter(judge.genuine.values()), (real.floor.images, judge.shown)), judge.reader).overall
        ceiling = shown(noise(images[judge.begins :][: len(wanted)]), wanted, judge.reader).overall
    nfe, seconds = (float(np.mean(some)) for some in zip(*((p.nfe, p.seconds) for p in made), strict=True))
    rows = (
        yard.row(system.name, plain, own, nfe=nfe, seconds=seconds, note=judge.note),
        yard.real(real.floor.images, floor),
        yard.row("noise", empty, ceiling),
    )
    return Sheet(rows=rows, marks=marks, space=judge.space, references=len(real.reference))
