"""`reverie evaluate MODEL`: distances from real pictures, agreement with what was asked, copies and time, in one table."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from tqdm import tqdm

from reverie.cli.parse import parse
from reverie.data.fashion import fashion_mnist
from reverie.data.pictures import Pictures
from reverie.errors import UserError
from reverie.measure.agreement import Agreement, shown
from reverie.measure.features import Features, imagenet
from reverie.measure.prompts import avatar_prompts
from reverie.measure.reader import Reader, load_reader
from reverie.measure.report import Row, Yardstick, noise, table
from reverie.systems import System
from reverie.systems.recipe import open_pictures
from reverie.systems.shipped import open_model
from reverie.tasks.generate import Picture, Settings, run, settle

NEW = 120  # prompts that ask for combinations kept out of training


@dataclass(frozen=True)
class Evaluate:
    """How good a model is. Real pictures and noise, measured in the same way, stand beside it: the floor and the ceiling."""

    model: Annotated[str, tyro.conf.Positional] = "reverie-avatars"
    """A shipped model, a .safetensors file that `reverie train` wrote, or the folder of a run."""
    data: str = ""
    """Real pictures: a folder or file; '' = those it was trained on."""
    samples: int = 500
    """Pictures made and measured; compare only Frechet distances of the same number."""
    steps: int | None = None
    guidance: float | None = None
    solver: str | None = None
    seed: int = 0
    batch: int = 50
    json: bool = False
    """One JSON object on stdout."""


@dataclass(frozen=True)
class Subject:
    """What a kind of data is measured with. training, held: as the model saw them; reference, floor: disjoint real pictures."""

    training: Pictures
    held: Pictures
    reference: Pictures
    floor: Pictures
    features: Features
    space: str
    prompts: Sequence[Any]
    asked: Sequence[Mapping[str, str]] | None = None
    reader: Reader | None = None
    new_prompts: Sequence[Any] = ()
    new_asked: Sequence[Mapping[str, str]] = field(default_factory=tuple)


def main(arguments: Sequence[str]) -> None:
    """Evaluates and prints."""
    asked = parse(Evaluate, arguments, "reverie evaluate", Evaluate())
    if asked.samples < 10:
        raise UserError(f"--samples is {asked.samples}: distances need at least 10, and mean something from about 200")
    system = open_model(asked.model)
    subject = _subject(system, asked)
    made = _make(system, asked, [*subject.prompts, *subject.new_prompts])
    rows, marks = _measure(system, subject, made)
    if asked.json:
        print(json.dumps(_record(system, subject, asked, rows, marks)))
        return
    print(table(rows))
    print(f"\ndistances from {len(subject.reference)} real pictures in the features of {subject.space}; 3 neighbours")
    print("copies: nearer to a training picture than 95 % of held-out real pictures are, at 16 pixels")
    for name, mark in marks.items():
        each = ", ".join(f"{k} {v:.0%}" for k, v in mark.each.items())
        print(f"agreement with {name}: {mark.overall:.1%} of {sum(mark.asked.values())} attributes ({each})")


def _subject(system: System, asked: Evaluate) -> Subject:
    """The real pictures, the features and the prompts for this model."""
    if system.denoiser is None:
        raise UserError(f"{system.name} is one stage of a model, and makes no pictures alone: evaluate the whole model")
    recipe = system.about.get("recipe", {})
    source = recipe.get("source")
    if source is None:
        raise UserError(
            f"{system.name} names no pictures that it was trained on: evaluate a model of avatars, fashion-mnist or a folder"
        )
    size = system.defaults.size[0]
    pictures = open_pictures(source, asked.data or _whereabouts(source, recipe.get("data", "")), size)
    if (found := pictures.images.shape[2]) != size:
        raise UserError(f"{system.name} makes pictures of {size} pixels, {pictures.name} has {found}: name others with --data")
    training, held = pictures.split(min(recipe.get("training", {}).get("holdout", 256), len(pictures) // 10))
    reference, floor = _halves(pictures, asked.samples)
    if source == "fashion-mnist":
        floor = _some(fashion_mnist("test", asked.data or None).pad(size), asked.samples)
    parts = (training, held, reference, floor)
    if source == "avatars":
        both = avatar_prompts(2 * max(asked.samples, NEW), avoid=pictures.attributes or ())
        ordinary, new = both[: 2 * asked.samples : 2], both[1 : 2 * NEW : 2]
        return Subject(
            *parts, imagenet(), "EfficientNet-Lite0", [p.text for p in ordinary], [p.attributes for p in ordinary],
            load_reader("avatars"), [p.text for p in new], [p.attributes for p in new],
        )  # fmt: skip
    if source == "fashion-mnist":
        reader, classes = load_reader("fashion"), pictures.classes
        labels = [i % len(classes) for i in range(asked.samples)]
        return Subject(*parts, reader.features, "the Fashion-MNIST reader", labels, [{"class": classes[k]} for k in labels], reader)
    rng = np.random.default_rng(asked.seed)
    prompts = [_said(system, floor, i % len(floor), rng) for i in range(asked.samples)]
    return Subject(*parts, imagenet(), "EfficientNet-Lite0", prompts)


def _whereabouts(source: str, data: str) -> str:
    """Where the model's own pictures are; the packaged or installed set where that file is gone."""
    return data if source == "folder" or Path(data).exists() else ""


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


def _make(system: System, asked: Evaluate, prompts: Sequence[Any]) -> list[Picture]:
    given = {k: getattr(asked, k) for k in ("steps", "guidance", "solver", "seed", "batch")}
    settings: Settings = settle(system, list(prompts), given)
    bar = tqdm(total=len(prompts), unit="picture", file=sys.stderr, dynamic_ncols=True, leave=False)
    made: list[Picture] = []
    for event in run(system, settings):
        if isinstance(event, list):
            made += event
            bar.update(len(event))
    bar.close()
    return made


def array(pictures: Sequence[Picture]) -> np.ndarray:
    """uint8 (N, C, H, W) of finished pictures."""
    arrays = [np.asarray(p.image) for p in pictures]
    return np.stack([a[None] if a.ndim == 2 else a.transpose(2, 0, 1) for a in arrays])


def _measure(system: System, subject: Subject, made: list[Picture]) -> tuple[list[Row], dict[str, Agreement]]:
    plain = array(made[: len(subject.prompts)])
    yard = Yardstick(subject.features, subject.reference.images, subject.training.images, subject.held.images)
    empty, marks = noise(plain), {}
    floor = ceiling = None
    if subject.reader is not None and subject.asked is not None:
        marks["what was asked"] = shown(plain, subject.asked, subject.reader)
        if subject.new_prompts:
            marks["combinations never trained on"] = shown(array(made[len(plain) :]), subject.new_asked, subject.reader)
        floor = shown(subject.floor.images, subject.floor.attributes or (), subject.reader).overall
        ceiling = shown(empty, subject.asked, subject.reader).overall
    own = marks["what was asked"].overall if marks else None
    seconds = float(np.mean([p.seconds for p in made]))
    rows = [
        yard.row(system.name, plain, own, nfe=float(np.mean([p.nfe for p in made])), seconds=seconds),
        yard.real(subject.floor.images, floor),
        yard.row("noise", empty, ceiling),
    ]
    return rows, marks


def _record(system: System, subject: Subject, asked: Evaluate, rows: list[Row], marks: dict[str, Agreement]) -> dict[str, Any]:
    agreed = {k: {"overall": m.overall, "asked": sum(m.asked.values()), "each": m.each} for k, m in marks.items()}
    settings = {k: v for k, v in asdict(asked).items() if k != "json"}
    return {
        "model": system.name,
        "features": subject.space,
        "settings": settings,
        "rows": [asdict(r) for r in rows],
        "agreement": agreed,
    }
