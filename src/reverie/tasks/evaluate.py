"""Measuring a system: distances from real pictures, agreement with what was asked, copies and time.

Real pictures and noise are measured in the same way: the floor and the ceiling, between which a number means something.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from reverie.data.avatars import avatars
from reverie.data.fashion import fashion_mnist
from reverie.data.pictures import Pictures
from reverie.errors import UserError
from reverie.measure.agreement import Agreement, shown
from reverie.measure.features import Features, imagenet
from reverie.measure.prompts import avatar_prompts
from reverie.measure.reader import Reader
from reverie.measure.report import Row, Yardstick, noise
from reverie.systems import System
from reverie.systems.recipe import open_pictures
from reverie.systems.shipped import open_reader
from reverie.tasks.generate import Picture, run, settle

NEW = 120  # prompts that ask for combinations kept out of training

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


@dataclass(frozen=True)
class Asked:
    """Prompts, and what each asks for."""

    prompts: Sequence[Any]
    attributes: Sequence[Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class Judge:
    """How a kind of data is measured: features and whose they are, prompts, and the reader that says what is seen."""

    features: Features
    space: str
    prompts: Sequence[Any]
    asked: Mapping[str, Asked] = field(default_factory=dict)
    """By kind of prompt, the first for `prompts`; their prompts follow each other."""
    reader: Reader | None = None


@dataclass(frozen=True)
class Real:
    """reference, floor: disjoint, as many of each as are made. seen: what the model was trained on, and what was held out of it."""

    reference: Pictures
    floor: Pictures
    seen: tuple[Pictures, Pictures] | None
    """None where these are not the pictures it was trained on: then nothing can be called a copy."""


def evaluate(system: System, samples: int = 500, *, data: str = "", progress: Progress | None = None, **settings: Any) -> Sheet:
    """Makes `samples` pictures and measures them. settings: those of `generate`; progress(done, count) is called on the way.

    data: real pictures, a folder or file; '' = those it was trained on. Compare only Frechet distances of the same number.
    """
    if samples < 10:
        raise UserError(f"{samples} samples are too few: distances need at least 10, and mean something from about 200")
    source, real = _real(system, samples, data)
    judge = _judge(system, source, real.floor, samples, settings.get("seed", 0))
    made: list[Picture] = []
    for event in run(system, settle(system, list(judge.prompts), settings)):
        if isinstance(event, list):
            made += event
            if progress:
                progress(len(made), len(judge.prompts))
    return _measure(system, real, judge, made, samples)


def _real(system: System, samples: int, data: str) -> tuple[str, Real]:
    """(kind of data, the real pictures) for this system."""
    recipe = system.about.get("recipe", {})
    source = recipe.get("source")
    if source is None:
        raise UserError(
            f"{system.name} names no pictures that it was trained on: evaluate a model of avatars, fashion-mnist or a folder"
        )
    size = system.defaults.size[0]
    where = data or _whereabouts(source, recipe.get("data", ""))
    pictures = open_pictures(source, where, size)
    if (found := pictures.images.shape[2]) != size:
        raise UserError(f"{system.name} makes pictures of {size} pixels, {pictures.name} has {found}: name others with --data")
    reference, floor = _halves(pictures, samples)
    if source == "fashion-mnist":
        floor = _some(fashion_mnist("test", where or None).pad(size), samples)
    return source, Real(reference, floor, _seen(system, pictures))


def _seen(system: System, pictures: Pictures) -> tuple[Pictures, Pictures] | None:
    """(training, held out), if these are what the model's file says it was trained on: the same name, and as many."""
    told = system.about.get("data", {})
    if (told.get("name"), told.get("count")) != (pictures.name, len(pictures)):
        return None
    holdout = system.about.get("recipe", {}).get("training", {}).get("holdout", 256)
    return pictures.split(min(holdout, max(1, len(pictures) // 10)))


def _judge(system: System, source: str, pictures: Pictures, samples: int, seed: int) -> Judge:
    if source == "avatars":
        both = avatar_prompts(2 * max(samples, NEW), avoid=avatars().attributes or ())
        kinds = {"what was asked": both[: 2 * samples : 2], "combinations never trained on": both[1 : 2 * NEW : 2]}
        asked = {kind: Asked([p.text for p in some], [p.attributes for p in some]) for kind, some in kinds.items()}
        prompts = [text for some in asked.values() for text in some.prompts]
        return Judge(features=imagenet(), space="EfficientNet-Lite0", prompts=prompts, asked=asked, reader=open_reader("avatars"))
    if source == "fashion-mnist":
        reader, labels = open_reader("fashion"), [i % len(pictures.classes) for i in range(samples)]
        asked = {"what was asked": Asked(labels, [{"class": pictures.classes[k]} for k in labels])}
        return Judge(features=reader.features, space="the Fashion-MNIST reader", prompts=labels, asked=asked, reader=reader)
    rng = np.random.default_rng(seed)
    prompts = [_said(system, pictures, i % len(pictures), rng) for i in range(samples)]
    return Judge(features=imagenet(), space="EfficientNet-Lite0", prompts=prompts)


def _whereabouts(source: str, data: str) -> str:
    """Where the model's own pictures are; the packaged or installed set where that file is gone."""
    return data if source == "folder" or os.path.exists(data) else ""


def _halves(pictures: Pictures, samples: int) -> tuple[Pictures, Pictures]:
    """(reference, floor): `samples` pictures each, or half of what there is; the floor is of those no reader was trained on."""
    n = min(samples, len(pictures) // 2)
    rest, floor = pictures.split(max(n, min(1000, len(pictures) // 2)))
    return _some(rest, n), _some(floor, n)


def _some(pictures: Pictures, count: int) -> Pictures:
    return pictures.take(np.random.default_rng(1).permutation(len(pictures))[:count])


def _said(system: System, pictures: Pictures, i: int, rng: np.random.Generator) -> Any:
    if system.encoder is None:
        return ""
    if pictures.caption is not None:
        return pictures.caption(i, rng)
    return int(pictures.labels[i]) if pictures.labels is not None else ""


def array(pictures: Sequence[Picture]) -> np.ndarray:
    """uint8 (N, C, H, W) of finished pictures."""
    arrays = [np.asarray(p.image) for p in pictures]
    return np.stack([a[None] if a.ndim == 2 else a.transpose(2, 0, 1) for a in arrays])


def _measure(system: System, real: Real, judge: Judge, made: Sequence[Picture], samples: int) -> Sheet:
    images = array(made)
    plain, empty = images[:samples], noise(images[:samples])
    yard = Yardstick(judge.features, real.reference.images, real.seen and (real.seen[0].images, real.seen[1].images))
    marks, first = {}, 0
    for kind, asked in judge.asked.items():
        assert judge.reader is not None
        marks[kind] = shown(images[first : first + len(asked.prompts)], asked.attributes, judge.reader)
        first += len(asked.prompts)
    own = floor = ceiling = None
    if judge.reader is not None:
        wanted = next(iter(judge.asked.values())).attributes
        own = next(iter(marks.values())).overall
        floor = shown(real.floor.images, real.floor.attributes or (), judge.reader).overall
        ceiling = shown(empty, wanted, judge.reader).overall
    nfe, seconds = (float(np.mean(some)) for some in zip(*((p.nfe, p.seconds) for p in made), strict=True))
    rows = (
        yard.row(system.name, plain, own, nfe=nfe, seconds=seconds),
        yard.real(real.floor.images, floor),
        yard.row("noise", empty, ceiling),
    )
    return Sheet(rows=rows, marks=marks, space=judge.space, references=len(real.reference))
