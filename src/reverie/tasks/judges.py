"""How a kind of data is judged: which prompts are asked, in whose features distances are taken, and who says what is seen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from reverie.data.avatar_attributes import STYLES
from reverie.data.avatars import avatars
from reverie.data.emoji_prompts import HELD_OUT, wishes
from reverie.data.pictures import Pictures
from reverie.data.sets import AVATARS, EMOJI, FASHION, FOLDER
from reverie.measure.agreement import Reads
from reverie.measure.classes import ClassReader
from reverie.measure.features import Features, imagenet
from reverie.measure.prompts import avatar_prompts
from reverie.systems import System
from reverie.systems.emoji.reader import ASKED
from reverie.systems.shipped import READERS, open_reader

WISHES = "what was asked"
KINDS_SAID = {"name": "concepts never trained on", "paraphrase": "paraphrases", "combination": "new combinations"}
NEW = 120  # prompts that ask for combinations kept out of training
FITTED = 1000  # real pictures, at most, that a reader of classes is fitted to: a minute of one core


@dataclass(frozen=True)
class Real:
    """reference, floor: disjoint, as many of each as are made. rest: all that the floor is not of; the reference is some of it.

    all: every one of them.

    seen: what the model was trained on, and what was held out of it; None where these are not the pictures it was trained on: then
    nothing can be called a copy.
    """

    rest: Pictures
    reference: Pictures
    floor: Pictures
    all: Pictures
    seen: tuple[Pictures, Pictures] | None


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
    reader: Reads | None = None
    shown: Sequence[Mapping[str, str]] = ()
    """What each picture of the floor shows: read like the others, it says how far the reader can be trusted."""
    note: str = ""
    """What must be known of the agreement, or why there is none."""
    begins: int = 0
    """Where in `prompts` those of `asked` begin; what stands before them is asked of nobody but the distances."""
    genuine: Mapping[str, tuple[np.ndarray, Sequence[Mapping[str, str]]]] = field(default_factory=dict)
    """By kind of prompt, real pictures of what is asked, where the floor shows other things, and what each of them shows."""


Maker = Callable[[System, Real, int, int], Judge]
"""(system, real pictures, samples, seed) -> its judge."""


def of_avatars(system: System, real: Real, samples: int, seed: int) -> Judge:
    """Prompts of avatars that nobody drew, and of combinations that nobody trained on."""
    if not set(real.floor.classes) <= set(STYLES):
        return replace(by_example(system, real, samples, seed), note=_unread(f"the reader knows {', '.join(STYLES)} only"))
    both = avatar_prompts(2 * max(samples, NEW), avoid=avatars().attributes or ())
    kinds = {WISHES: both[: 2 * samples : 2], "combinations never trained on": both[1 : 2 * NEW : 2]}
    asked = {kind: Asked([p.text for p in some], [p.attributes for p in some]) for kind, some in kinds.items()}
    prompts = [text for some in asked.values() for text in some.prompts]
    reader, shown = open_reader("avatars"), real.floor.attributes or ()
    return Judge(features=imagenet(), space="EfficientNet-Lite0", prompts=prompts, asked=asked, reader=reader, shown=shown)


def of_clothes(system: System, real: Real, samples: int, seed: int) -> Judge:
    """The classes in turn."""
    reader, classes = open_reader("fashion"), real.floor.classes
    labels, shown = [i % len(classes) for i in range(samples)], real.floor.attributes or ()
    asked = {WISHES: Asked(labels, [{"class": classes[k]} for k in labels])}
    space = "the Fashion-MNIST reader"
    return Judge(features=reader.features, space=space, prompts=labels, asked=asked, reader=reader, shown=shown)


def of_folder(system: System, real: Real, samples: int, seed: int) -> Judge:
    """Classes, where there are: those of the real pictures in turn, read by a reader that is fitted to other real pictures."""
    judge, labels, classes = by_example(system, real, samples, seed), real.floor.labels, real.rest.classes
    if labels is None or real.rest.labels is None:
        return replace(judge, note=_unread("no reader knows what this folder's pictures show: only classes can be read"))
    if system.prompt_encoder is None or len(set(real.rest.labels)) < 2:
        return replace(judge, note=_unread("the model is told no class, or there is only one"))
    known = real.rest.take(np.random.default_rng(1).permutation(len(real.rest))[:FITTED])
    assert known.labels is not None
    reader = ClassReader(judge.features, known.images, known.labels, classes)
    shown = [{"class": classes[k]} for k in labels]
    asked = {WISHES: Asked(judge.prompts, [shown[i % len(shown)] for i in range(samples)])}
    note = f"agreement: of the class, read by a regression on {len(known)} other real pictures; 'real' is how often it is right"
    return replace(judge, asked=asked, reader=reader, shown=shown, note=note)


def by_example(system: System, real: Real, samples: int, seed: int) -> Judge:
    """What is said of the real pictures, of each in turn; nobody reads what was drawn."""
    rng, pictures = np.random.default_rng(seed), real.floor
    prompts = [_said(system, pictures, i % len(pictures), rng) for i in range(samples)]
    note = _unread("no reader knows what these captions ask for")
    return Judge(features=imagenet(), space="EfficientNet-Lite0", prompts=prompts, note=note)


def of_emoji(system: System, real: Real, samples: int, seed: int) -> Judge:
    """Captions of real pictures for the distances; then 200 prompts, which pictures are to find among all of them."""
    judge = by_example(system, real, samples, seed)
    if "emoji" not in READERS:
        return replace(judge, note=_unread("this version comes without the judge of emoji"))
    pictures = real.all
    labels = [a["label"] for a in pictures.attributes or ()]
    if system.prompt_encoder is None or not set(labels) >= HELD_OUT:
        return replace(judge, note=_unread("the model takes no words, or these are not all emoji"))
    styles = sorted({a["style"] for a in pictures.attributes or ()})
    asked, genuine = {}, {}
    for kind in dict.fromkeys(wish.kind for wish in wishes()):
        some = [w for w in wishes() if w.kind == kind]
        texts = [f"{w.text}, {styles[k % len(styles)].replace('-', ' ')} style" for k, w in enumerate(some)]
        asked[KINDS_SAID[kind]] = Asked(texts, [{ASKED: w.text} for w in some])
        shows = {w.label: w.text for w in some if w.label}
        rows = [i for i, label in enumerate(labels) if label in shows]
        if rows:
            genuine[KINDS_SAID[kind]] = pictures.images[rows], [{ASKED: shows[labels[i]]} for i in rows]
    prompts = [*judge.prompts, *(text for some in asked.values() for text in some.prompts)]
    note = "agreement: how often the picture finds its prompt among 200 (R@1; by chance 0.5 %), for concepts never trained on"
    reader = open_reader("emoji")
    return replace(judge, prompts=prompts, asked=asked, begins=samples, genuine=genuine, reader=reader, note=note)


def _unread(why: str) -> str:
    return f"agreement: not measured, because {why}"


def _said(system: System, pictures: Pictures, i: int, rng: np.random.Generator) -> Any:
    if system.prompt_encoder is None:
        return ""
    if pictures.caption is not None:
        return pictures.caption(i, rng)
    return int(pictures.labels[i]) if pictures.labels is not None else ""


JUDGES: Mapping[str, Maker] = {
    AVATARS.name: of_avatars,
    EMOJI.name: of_emoji,
    FASHION.name: of_clothes,
    FOLDER.name: of_folder,
}
