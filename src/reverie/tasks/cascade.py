"""Pictures through several systems: what the first draws from words, each of the others enlarges (Ho et al., arXiv:2106.15282).

A system enlarges that learnt from small pictures (`encode.pictures.Damaged` with a factor). The words are heard by those that
hear any.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reverie.card import Card
from reverie.data.damages import enlarged, noised
from reverie.encode import Damaged
from reverie.errors import UserError
from reverie.rng import digest
from reverie.systems.system import System
from reverie.tasks.generate import Picture, Preview, run
from reverie.tasks.metadata import source
from reverie.tasks.settings import Settings
from reverie.tasks.source import fitted
from reverie.tasks.start import Start, Task


def enlarger(system: System) -> Damaged:
    """What shows small pictures to a system; UserError where it did not learn to enlarge."""
    shows = system.encoders.get("damaged")
    if not isinstance(shows, Damaged) or shows.factor < 2:
        raise UserError(f"{system.name} did not learn to enlarge pictures: name a model that did, as of `reverie train avatars-64`")
    return shows


@dataclass(frozen=True)
class Enlarge:
    """The task of enlarging: one small picture for all of the batch, or one for each. level: noise that is put on, None = usual."""

    images: tuple[Image.Image, ...]
    level: float | None = None

    @property
    def card(self) -> Card:
        return {"name": "enlarge", "level": self.level}

    def __call__(self, start: Start) -> Start:
        system, (height, width) = start.system, start.settings.size
        shows = enlarger(system)
        level = shows.level if self.level is None else self.level
        if not 0 <= level <= 2:
            raise UserError(f"level is {level}; it is the deviation of noise on the small picture, between 0 and 2")
        side = height // shows.factor, width // shows.factor
        rows = self.images if len(self.images) == 1 else self.images[start.first : start.first + len(start.said)]
        small = [fitted(image, side, system.codec.channels, Image.Resampling.BOX) for image in rows] * (
            len(start.said) // len(rows)
        )
        told = torch.cat([self._told(start, shows, small[k], level, seed) for k, seed in enumerate(start.rng.seeds)])
        return start.hear(lambda cond: replace(cond, concat=told))

    def _told(self, start: Start, shows: Damaged, small: Tensor, level: float, seed: int) -> Tensor:
        """Of one picture: the noise on it is its seed's."""
        rng = np.random.default_rng(digest("enlarge", seed))
        pixels, plane = noised(enlarged(small, shows.factor), torch.full((1, 1, 1, 1), level), rng)
        return shows.told(start.system.codec, pixels, plane)


def cascade(
    systems: Sequence[System], settings: Settings, tasks: Sequence[Task] = (), level: float | None = None
) -> Iterator[Preview | list[Picture]]:
    """Every step of every system, and after each batch its pictures from the last one. settings: of the first, filled by it.

    Each of the others draws with its own defaults; the seeds, and the words where they are heard, are the same. level: as of
    `Enlarge`.
    """
    first, *rest = systems
    for system in rest:
        enlarger(system)
    return _through(run(first, settings, tasks), rest, level)  # what cannot be is said now, and not at the first step


def _through(
    events: Iterator[Preview | list[Picture]], rest: Sequence[System], level: float | None
) -> Iterator[Preview | list[Picture]]:
    for event in events:
        if isinstance(event, Preview):
            yield event
            continue
        made = event
        for system in rest:
            made = yield from _larger(system, made, level)
        yield made


def _larger(system: System, made: Sequence[Picture], level: float | None) -> Generator[Preview, None, list[Picture]]:
    """The pictures of a batch, whose seeds count on from the first, enlarged in one. Their settings stay those of the first model,
    which draws them again; what enlarged them, and to what size, comes to their tasks."""
    factor, (width, height), first = enlarger(system).factor, made[0].image.size, made[0].settings
    asked = Settings(prompt=("",) * len(made), seed=made[0].seed, strict=first.strict, batch=len(made))
    if system.prompt_encoder is not None:
        said = tuple(picture.settings.prompt[0] for picture in made)
        style = first.style if first.style in system.styles else ""
        asked = replace(asked, prompt=said, negative=first.negative, style=style, plain=first.plain)
    own = replace(asked, height=height * factor, width=width * factor).filled(system)
    own_level = enlarger(system).level if level is None else level
    card = {"name": "enlarge", "model": source(system, str(system.about.get("given", ""))), "level": own_level}
    card |= {"height": own.height, "width": own.width}
    larger: list[Picture] = []
    for event in run(system, own, [Enlarge(tuple(picture.image for picture in made), level)]):
        if isinstance(event, Preview):
            yield event
        else:
            larger += event
    return [
        replace(a, image=b.image, nfe=a.nfe + b.nfe, seconds=a.seconds + b.seconds, tasks=(*a.tasks, card))
        for a, b in zip(made, larger, strict=True)
    ]
