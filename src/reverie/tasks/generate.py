"""Pictures from prompts, on any system: encode, guide, trace, decode.

Image k of a call has seed `seed + k`; its noise, and on the CPU with `strict` its every bit, do not depend on the batch.
"""

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reverie.card import Card, parse, rebuild
from reverie.encode.asked import notes as heard_of
from reverie.errors import UserError
from reverie.guide import GUIDES, Asked, Guide, idle
from reverie.solve import Step, trace
from reverie.systems.guides import opened
from reverie.systems.memory import ran_out
from reverie.systems.system import System
from reverie.tasks.settings import Settings, settle
from reverie.tasks.start import Start, Task, begun, plan
from reverie.train.jobs import to_pictures


class Diverged(UserError):
    """The sampler left the numbers: these settings make no picture, others may."""


@dataclass(frozen=True)
class Preview:
    """One step of one batch: which pictures, the sampler's step, and a way to look at its clean estimate."""

    first: int
    total: int
    step: Step
    system: System = field(repr=False)

    def pictures(self) -> list[Image.Image]:
        """The predicted clean pictures at this step."""
        return to_images(self.system.codec.decode(self.step.x0.float()))


@dataclass(frozen=True)
class Picture:
    """A finished picture and what made it. prompt: with the style in words. seconds: its share of its batch's time.

    nfe: evaluations of the net; a guided pair, with and without the prompt, counts as one. tasks: the cards of those that tell.
    """

    image: Image.Image
    prompt: Any
    seed: int
    nfe: int
    seconds: float
    settings: Settings
    tasks: tuple[Card, ...] = ()


def to_images(x: Tensor) -> list[Image.Image]:
    """Float (B, C, H, W) in [-1, 1] -> PIL images, RGB or gray."""
    arrays = to_pictures(x)
    return [Image.fromarray(a[0] if a.shape[0] == 1 else np.ascontiguousarray(a.transpose(1, 2, 0))) for a in arrays]


def _run(
    system: System, settings: Settings, tasks: Sequence[Task], guides: Sequence[Guide], begin: Preview | None
) -> Iterator[Preview | list[Picture]]:
    prompts = settings.prompts()
    for first in range(0 if begin is None else begin.first, len(prompts), settings.batch):
        now = time.perf_counter()
        with torch.no_grad():
            start = begun(system, settings, tasks, first, guides)
            model, x = start.model, start.x
        step = before = begin.step if begin is not None and first == begin.first else None
        for step in trace(model, x, start.grid, start.solver, cond=start.told, rng=start.rng, begin=before):
            yield Preview(first, len(prompts), step, system)
        assert step is not None
        yield _finish(start, prompts[first : first + settings.batch], step, now, tasks)


@torch.no_grad()
def _finish(start: Start, asked: list[Any], last: Step, begin: float, tasks: Sequence[Task]) -> list[Picture]:
    if not bool(last.x.isfinite().all()):
        raise Diverged("the sampler produced NaN or infinity: use more steps, less guidance, or another solver")
    system, settings = start.system, start.settings
    rows = [slice(k, k + 1) for k in range(len(asked))] if settings.strict else [slice(None)]
    decoded = torch.cat([system.codec.decode(last.x[k]) for k in rows])
    images = to_images(reduce(lambda pictures, change: change(pictures), start.finish, decoded))
    seconds = (time.perf_counter() - begin) / len(asked)
    made = []
    for k, (image, prompt, seed) in enumerate(zip(images, asked, start.rng.seeds[-len(asked) :], strict=True), start.first):
        own = replace(settings, prompt=(prompt,), seed=seed, count=1)
        made.append(Picture(image, settings.said(prompt), seed, last.nfe, seconds, own, _cards(tasks, k)))
    return made


def _cards(tasks: Sequence[Any], index: int) -> tuple[Card, ...]:
    """What the tasks tell of picture `index`: by `of`, where that differs from picture to picture, or by `card`."""
    found = [task.of(index) if hasattr(task, "of") else getattr(task, "card", None) for task in tasks]
    return tuple(card for card in found if card is not None)


def run(
    system: System, settings: Settings, tasks: Sequence[Task] = (), begin: Preview | None = None
) -> Iterator[Preview | list[Picture]]:
    """Every step of every batch, and after each batch its pictures, as they come; an impossible solver or grid is named at once.

    begin: a step of an earlier run of the same, to go on from, bit for bit, if `goes_on`; pictures of batches before it are done.
    """
    plan(system, settings)
    if begin is not None and not goes_on(settings):
        raise UserError("momentum remembers the steps before, which are not kept: begin the picture anew")
    guides = [opened(guide) for guide in settings.guide]
    return _remedied(_run(system, settings, tasks, guides, begin), settings)


def goes_on(settings: Settings) -> bool:
    """Whether a picture can be taken up at a step: all that it depends on is in the step, but for the memory of momentum."""
    return not any(parse(call).get("momentum") for call in settings.guide)


def _remedied(events: Iterator[Preview | list[Picture]], settings: Settings) -> Iterator[Preview | list[Picture]]:
    """The same events; where memory runs out, an error that names what helps."""
    try:
        yield from events
    except (MemoryError, RuntimeError) as error:
        if (said := ran_out(error, settings)) is not None:
            raise said from error
        raise


def notes(system: System, settings: Settings, tasks: Sequence[Any] = ()) -> list[str]:
    """What of the prompts, the negative prompt and the tasks has no effect, or another than one may think, one line each.

    Of tasks: their own `notes`, and those on the `words` that they say.
    """
    own = [note for task in tasks for note in getattr(task, "notes", lambda settings: [])(settings)]
    if settings.guidance == 1:
        asked = Asked(plain=system.denoiser, grid=plan(system, settings)[1])
        wishes = [rebuild(parse(call), GUIDES, "guide") for call in settings.guide]
        names = [guide.card["name"] for guide in wishes if idle(guide, asked)]
        own += [f"guidance is 1, so {name} has no effect" for name in names]
    if (encoder := system.prompt_encoder) is None:
        return own
    steps, plain = settings.steps or 1, settings.plain
    every = [*settings.prompt, *(text for task in tasks for text in getattr(task, "words", ()))]
    said = [note for p in every for note in heard_of(encoder, p, steps, plain=plain)]
    return list(dict.fromkeys([*said, *heard_of(encoder, settings.negative, steps, against=True, plain=plain), *own]))


def _settled(system: System, prompt: Any, tasks: Sequence[Task], settings: Any) -> Settings:
    """`settle`, with a warning of what has no effect: the caller of Python does not see the notes of the command line."""
    if not isinstance(tasks, (list, tuple)):
        raise UserError(f"tasks is a {type(tasks).__name__}: give a list of tasks, even of one")
    made = settle(system, prompt, settings)
    if said := notes(system, made, tasks):
        warnings.warn("; ".join(said), stacklevel=4)
    return made


def steps(system: System, prompt: Any = "", tasks: Sequence[Task] = (), **settings: Any) -> Iterator[Preview]:
    """Every step, as it is taken: `for step in system.steps("a smiling woman"): step.pictures()`."""
    events = run(system, _settled(system, prompt, tasks, settings), tasks)
    return (event for event in events if isinstance(event, Preview))


def generate(system: System, prompt: Any = "", tasks: Sequence[Task] = (), **settings: Any) -> list[Image.Image]:
    """PIL images of a prompt, or of each of several (count pictures each): see `Settings` for the keywords."""
    events = run(system, _settled(system, prompt, tasks, settings), tasks)
    return [picture.image for event in events if isinstance(event, list) for picture in event]
