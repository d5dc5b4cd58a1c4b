"""How a kind of data is judged: which prompts are asked, in whose features distances are taken, and who says what is seen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reverie.data.avatars import avatars
from reverie.data.pictures import Pictures
from reverie.data.sets import AVATARS, FASHION
from reverie.measure.features import Features, imagenet
from reverie.measure.prompts import avatar_prompts
from reverie.measure.reader import Reader
from reverie.systems import System
from reverie.systems.shipped import open_reader

NEW = 120  # prompts that ask for combinations kept out of training


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


Maker = Callable[[System, Pictures, int, int], Judge]
"""(system, real pictures, samples, seed) -> its judge."""


def of_avatars(system: System, pictures: Pictures, samples: int, seed: int) -> Judge:
    """Prompts of avatars that nobody drew, and of combinations that nobody trained on."""
    both = avatar_prompts(2 * max(samples, NEW), avoid=avatars().attributes or ())
    kinds = {"what was asked": both[: 2 * samples : 2], "combinations never trained on": both[1 : 2 * NEW : 2]}
    asked = {kind: Asked([p.text for p in some], [p.attributes for p in some]) for kind, some in kinds.items()}
    prompts = [text for some in asked.values() for text in some.prompts]
    return Judge(features=imagenet(), space="EfficientNet-Lite0", prompts=prompts, asked=asked, reader=open_reader("avatars"))


def of_clothes(system: System, pictures: Pictures, samples: int, seed: int) -> Judge:
    """The classes in turn."""
    reader, labels = open_reader("fashion"), [i % len(pictures.classes) for i in range(samples)]
    asked = {"what was asked": Asked(labels, [{"class": pictures.classes[k]} for k in labels])}
    return Judge(features=reader.features, space="the Fashion-MNIST reader", prompts=labels, asked=asked, reader=reader)


def by_example(system: System, pictures: Pictures, samples: int, seed: int) -> Judge:
    """What is said of the real pictures, of each in turn; nobody reads what was drawn."""
    rng = np.random.default_rng(seed)
    prompts = [_said(system, pictures, i % len(pictures), rng) for i in range(samples)]
    return Judge(features=imagenet(), space="EfficientNet-Lite0", prompts=prompts)


def _said(system: System, pictures: Pictures, i: int, rng: np.random.Generator) -> Any:
    if system.prompt_encoder is None:
        return ""
    if pictures.caption is not None:
        return pictures.caption(i, rng)
    return int(pictures.labels[i]) if pictures.labels is not None else ""


JUDGES: Mapping[str, Maker] = {AVATARS.name: of_avatars, FASHION.name: of_clothes}
