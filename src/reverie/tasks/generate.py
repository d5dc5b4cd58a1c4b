"""Pictures from prompts, on any system: encode, guide, trace, decode.

Image k of a call has seed `seed + k`; its noise, and on the CPU with `strict` its every bit, do not depend on the batch.
"""

import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reverie.card import Card, parse, rebuild
from reverie.denoiser import Cond, Model, OneByOne
from reverie.errors import UserError, nearest
from reverie.guide import cfg
from reverie.guide.experts import Experts, Heard
from reverie.process.grids import GRIDS
from reverie.rng import Rng
from reverie.solve import Solver, Step, find, named, trace
from reverie.systems.memory import ran_out
from reverie.systems.system import System
from reverie.train.jobs import to_pictures

LIMITS = {"steps": 100_000, "count": 100_000, "batch": 100_000, "height": 16_384, "width": 16_384}
WHOLE, TEXT = (Integral, "a whole number"), (str, "text")
KINDS: Mapping[str, tuple[Any, str]] = {
    "prompt": ((str, Integral), "text or the number of a class"),
    "negative": ((str, Integral), "text or the number of a class"),
    **dict.fromkeys(("seed", "count", "steps", "batch", "height", "width"), WHOLE),
    **dict.fromkeys(("style", "solver", "grid"), TEXT),
    **dict.fromkeys(("guidance", "handover"), (Real, "a number")),
    "strict": (bool, "true or false"),
}
FILLED = ("steps", "guidance", "solver", "grid", "height", "width")
SIZED = ("flux_shift", "sd3_shift")
MARKS = re.compile(r"\([^()]*:\s*[\d.]+\s*\)|<\w+:[^<>]+>")
"""What A1111 does not read as words: (red:1.3), <lora:name:1>."""
TUNED = "tuned"
"""The name of the solvers that were fitted to a model, and of their times."""


def meant(name: str) -> tuple[str, str | None]:
    """Our name of a solver, and the grid that the name implies, if it implies one."""
    if name.strip().casefold() == TUNED:
        return TUNED, TUNED
    found = find(name)
    return found.row.name, found.grid


def check_kind(name: str, value: Any) -> None:
    """UserError unless a setting's value is of its kind; text must be valid Unicode, for it is written into the picture."""
    kind, words = KINDS[name]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{name} is {str(value)[:60]!r} ({type(value).__name__}); it must be {words}")
    if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
        raise UserError(f"{name} is {ascii(value)[:60]}, which is not valid UTF-8: type it again")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides a picture; None means the system's own default."""

    prompt: tuple[Any, ...] = ("",)
    negative: Any = ""
    style: str = ""
    seed: int = 0
    count: int = 1
    steps: int | None = None
    guidance: float | None = None
    solver: str | None = None
    grid: str | None = None
    height: int | None = None
    width: int | None = None
    handover: float = 0.8
    batch: int = 16
    strict: bool = False

    def filled(self, system: System) -> "Settings":
        """With the system's defaults in place of None, our name of the solver and the grid it implies, and everything checked."""
        self.check()
        d = system.defaults
        solver, grid = meant(self.solver or d.solver)
        if solver == TUNED and self.grid not in (None, TUNED):
            raise UserError(f"a tuned solver has times of its own: leave out the grid {self.grid}, or name another solver")
        grid = self.grid or grid or d.grid
        made = replace(
            self,
            steps=_usual(system, solver, grid) if self.steps is None else self.steps,
            guidance=d.guidance if self.guidance is None else self.guidance,
            solver=solver,
            grid=grid,
            height=d.size[0] if self.height is None else self.height,
            width=d.size[1] if self.width is None else self.width,
        )
        made.check()
        system.check_size(*made.size)
        if self.style and self.style not in system.styles:
            if not system.styles:
                raise UserError(f"{system.name} has no styles: leave out the style, or say it in the prompt")
            raise UserError(f"{system.name} has no style '{self.style}'.{nearest(self.style, system.styles)}")
        return made

    def check(self) -> None:
        """UserError unless every setting has its kind and range; those that a system fills in may be None."""
        for name in KINDS:
            for value in self.prompt if name == "prompt" else [getattr(self, name)]:
                if value is not None or name not in FILLED:
                    check_kind(name, value)
        for name, most in LIMITS.items():
            if (value := getattr(self, name)) is not None and not 1 <= value <= most:
                raise UserError(f"{name} is {value}; it must be at least 1 and at most {most}")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}; seeds are 0 or larger")
        if not 0 <= self.handover <= 1:
            raise UserError(f"handover is {self.handover}; it is the share of the way before the refiner, between 0 and 1")
        if self.guidance is not None and not abs(self.guidance) <= 1e6:  # so that NaN is refused, too
            raise UserError(f"guidance is {self.guidance}; it must lie between -1e6 and 1e6")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width; only of settings that a system has filled."""
        return self.height or 0, self.width or 0

    def said(self, prompt: Any) -> Any:
        """A prompt with the style in words."""
        return f"{prompt}, {self.style} style" if self.style else prompt

    def prompts(self) -> list[Any]:
        """One prompt per picture, as it was given: `count` pictures of each."""
        return [p for p in self.prompt for _ in range(self.count)]


def _usual(system: System, solver: str, grid: str) -> int:
    """The steps of a grid that lists them, of the largest tuned solver, or of the model."""
    listed = [t for t in parse(grid).get("*", []) if t != 0] if grid != TUNED else []
    if listed or solver != TUNED or system.defaults.steps in system.tuned:
        return len(listed) or system.defaults.steps
    return max(system.tuned, default=system.defaults.steps)


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

    nfe: evaluations of the net; a guided pair, with and without the prompt, counts as one.
    """

    image: Image.Image
    prompt: Any
    seed: int
    nfe: int
    seconds: float
    settings: Settings


def to_images(x: Tensor) -> list[Image.Image]:
    """Float (B, C, H, W) in [-1, 1] -> PIL images, RGB or gray."""
    arrays = to_pictures(x)
    return [Image.fromarray(a[0] if a.shape[0] == 1 else np.ascontiguousarray(a.transpose(1, 2, 0))) for a in arrays]


def guided(system: System, settings: Settings, texts: Sequence[Any]) -> tuple[Model, Any]:
    """The denoiser with everything the settings ask for, and its condition; with a refiner, those of both."""
    model, cond = _guided(system, settings, texts)
    if system.refiner is None:
        return model, cond
    second, told = _guided(system.refiner, settings, texts)
    return Experts(model, second, 1 - settings.handover), Heard(cond, told)


def _guided(system: System, settings: Settings, texts: Sequence[Any]) -> tuple[Model, Any]:
    model: Any = OneByOne(system.denoiser) if settings.strict else system.denoiser
    if (encoder := system.prompt_encoder) is None:
        if any(t != "" for t in texts):
            raise UserError(f"{system.name} is unconditional: it takes no prompt")
        return model, None
    cond = alone(encoder, texts, settings.size)
    scale = 1.0 if settings.guidance is None else float(settings.guidance)
    if getattr(system.denoiser, "guided", False):
        return model, replace(cond, guidance=torch.full((len(texts),), scale))
    if scale != 1:
        model = cfg(model, scale, alone(encoder, [settings.negative] * len(texts), settings.size, against=True))
    return model, cond


def alone(encoder: Any, texts: Sequence[Any], size: tuple[int, int], against: bool = False) -> Cond:
    """One row per prompt, each encoded by itself: in a batch its last bits would depend on the others, and bf16 enlarges them.

    against: the prompts are negative; a few encoders say those in another way.
    """
    hear = getattr(encoder, "against", encoder.prompts) if against else encoder.prompts
    each = {text: hear([text], size) for text in dict.fromkeys(texts)}
    return Cond.cat([each[text] for text in texts])


def plan(system: System, settings: Settings) -> tuple[Solver, Tensor]:
    """The solver and the times of the steps; an impossible one is a UserError."""
    if settings.solver == TUNED:
        tuned = system.tuned.get(settings.steps or 0)
        if tuned is None:
            known = f", only to {', '.join(map(str, sorted(system.tuned)))}" if system.tuned else ""
            raise UserError(f"{system.name} has no solver tuned to {settings.steps} steps{known}: make one with `reverie tune`")
        return tuned, torch.tensor(tuned.knots, dtype=torch.float64)
    make = rebuild(_sized(parse(settings.grid or ""), settings), GRIDS, "grid")
    return named(settings.solver or "")[0], make(system.denoiser.path, settings.steps or 0)


def _sized(card: Card, settings: Settings) -> Card:
    """A grid that depends on the size of the picture is told it."""
    return {"width": settings.width, "height": settings.height, **card} if card["name"] in SIZED else card


def _run(system: System, settings: Settings, solver: Solver, grid: Tensor) -> Iterator[Preview | list[Picture]]:
    prompts = settings.prompts()
    for first in range(0, len(prompts), settings.batch):
        begin = time.perf_counter()
        asked = prompts[first : first + settings.batch]
        said = [settings.said(p) for p in asked]
        rng = Rng.of(settings.seed + first, len(said))
        with torch.no_grad():
            model, cond = guided(system, settings, said)
            x = system.denoiser.path.prior((len(said), *system.codec.shape(*settings.size)), grid[0], rng=rng, spread=1.0)
            x = x.to(getattr(system.denoiser, "place", x.device))
        step = None
        for step in trace(model, x, grid, solver, cond=cond, rng=rng):
            yield Preview(first, len(prompts), step, system)
        assert step is not None
        yield _finish(system, settings, asked, first, step, begin)


@torch.no_grad()
def _finish(system: System, settings: Settings, asked: list[Any], first: int, last: Step, begin: float) -> list[Picture]:
    if not bool(last.x.isfinite().all()):
        raise Diverged("the sampler produced NaN or infinity: use more steps, less guidance, or another solver")
    rows = [slice(k, k + 1) for k in range(len(asked))] if settings.strict else [slice(None)]
    images = [image for k in rows for image in to_images(system.codec.decode(last.x[k]))]
    seconds = (time.perf_counter() - begin) / len(asked)
    made = []
    for seed, (image, prompt) in enumerate(zip(images, asked, strict=True), settings.seed + first):
        own = replace(settings, prompt=(prompt,), seed=seed, count=1)
        made.append(Picture(image, settings.said(prompt), seed, last.nfe, seconds, own))
    return made


def wanted(prompt: Any, settings: Mapping[str, Any]) -> Settings:
    """Settings from a prompt (or several) and keywords, checked as far as they can be without a system.

    An unknown keyword is an error that names the nearest.
    """
    known = Settings.__dataclass_fields__
    for name in settings:
        if name not in known or name == "prompt":
            raise UserError(f"generate has no setting '{name}'.{nearest(name, [k for k in known if k != 'prompt'])}")
    prompts = tuple(prompt) if isinstance(prompt, (list, tuple)) else (prompt,)
    made = Settings(prompt=prompts, **settings)
    made.check()
    if made.solver is not None:
        meant(made.solver)
    if made.grid is not None and made.grid != TUNED:
        rebuild(parse(made.grid), GRIDS, "grid")
    return made


def settle(system: System, prompt: Any, settings: Mapping[str, Any]) -> Settings:
    """The same, with everything a system fills in."""
    return wanted(prompt, settings).filled(system)


def run(system: System, settings: Settings) -> Iterator[Preview | list[Picture]]:
    """Every step of every batch, and after each batch its pictures, as they come; an impossible solver or grid is named at once."""
    return _remedied(_run(system, settings, *plan(system, settings)), settings)


def _remedied(events: Iterator[Preview | list[Picture]], settings: Settings) -> Iterator[Preview | list[Picture]]:
    """The same events; where memory runs out, an error that names what helps."""
    try:
        yield from events
    except (MemoryError, RuntimeError) as error:
        if (said := ran_out(error, settings)) is not None:
            raise said from error
        raise


def notes(system: System, settings: Settings) -> list[str]:
    """What of the prompts and the negative prompt has no effect, one line each."""
    if (encoder := system.prompt_encoder) is None:
        return []
    said = (*settings.prompt, settings.negative)
    marks = [m[0] for p in said if isinstance(p, str) and (m := MARKS.search(p))]
    odd = [f"'{marks[0][:60]}' is read as words: weights and files in a prompt are not known here"] if marks else []
    return list(dict.fromkeys([*odd, *(note for p in said for note in encoder.notes(p))]))


def _settled(system: System, prompt: Any, settings: Any) -> Settings:
    """`settle`, with a warning of what has no effect: the caller of Python does not see the notes of the command line."""
    made = settle(system, prompt, settings)
    if said := notes(system, made):
        warnings.warn("; ".join(said), stacklevel=4)
    return made


def steps(system: System, prompt: Any = "", **settings: Any) -> Iterator[Preview]:
    """Every step, as it is taken: `for step in system.steps("a smiling woman"): step.pictures()`."""
    events = run(system, _settled(system, prompt, settings))
    return (event for event in events if isinstance(event, Preview))


def generate(system: System, prompt: Any = "", **settings: Any) -> list[Image.Image]:
    """PIL images of a prompt, or of each of several (count pictures each): see `Settings` for the keywords."""
    events = run(system, _settled(system, prompt, settings))
    return [picture.image for event in events if isinstance(event, list) for picture in event]
