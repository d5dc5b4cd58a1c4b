"""What a batch of pictures is drawn from. A task is a function from one `Start` to another: that is all it can do, and so every
task works on every system, with every solver, and with every other task. What a task builds on comes before it, in whatever order
they are asked for: by its `turn`, which is `REST` where it says none.

    x_t = alpha(t) source + sigma(t) noise    at the grid's first time t, or without a source
    x_t = sqrt(alpha(t)^2 + sigma(t)^2) noise                                                                     (1)

is traced with `model` under `told`; what is decoded goes through `finish`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, TypeVar

import torch
from torch import Tensor

from reverie.card import Card, parse, rebuild
from reverie.denoiser import Cond, Model, OneByOne
from reverie.encode.asked import read, words
from reverie.errors import UserError
from reverie.guide import Asked, Guide, guided
from reverie.guide.experts import Experts, Heard
from reverie.guide.scheduled import heeding
from reverie.process.grids import GRIDS
from reverie.rng import Rng
from reverie.solve import Solver, named
from reverie.systems.guides import opened
from reverie.systems.system import System
from reverie.tasks.settings import TUNED, Settings

SIZED = ("flux_shift", "sd3_shift")
TRACED, VARIED, STEERED, SHOWN, PARTED, PAIRED, REST = range(7)
"""Turns: a picture's own noise; other noise; controls; pictures as prompts; prompts of parts; pictures that follow; all else."""
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Start:
    """A batch before its first step.

    system, settings: what is drawn with, the settings filled. said: the prompt of each picture, with the style. first: its first
    picture's place among all that were asked for; total: how many these are. denoiser: what hears cond and negative, before
    guidance; lookers: put around it, told the grid, to change its attention. grid: the times of the steps; way: those that changes
    within a prompt refer to. guides: wishes about the guidance.
    noise (B, ...): of deviation 1. source (1 or B, ...): points of the diffusion's space to begin near, or None.
    around: put around the guided model, the first innermost, each with what it makes of the condition. finish: done to the
    decoded pictures (B, C, H, W), in order. refiner: the same of the system that draws the end of the way; it shares noise, grid
    and solver.
    """

    system: System
    settings: Settings
    said: tuple[Any, ...]
    first: int
    total: int
    denoiser: Model
    cond: Cond | None
    negative: Cond | None
    noise: Tensor
    rng: Rng
    solver: Solver
    grid: Tensor
    way: Tensor
    guides: tuple[Guide, ...] = ()
    lookers: tuple[Callable[[Model, Tensor], Model], ...] = ()
    source: Tensor | None = None
    around: tuple[tuple[Callable[[Model], Model], Callable[[Any], Any]], ...] = ()
    finish: tuple[Callable[[Tensor], Tensor], ...] = ()
    refiner: "Start | None" = None

    @property
    def guided(self) -> Model:
        """The denoiser with its guidance."""
        told = [cond for cond in (self.cond, self.negative) if cond is not None]
        plain = reduce(lambda model, look: _inside(model, lambda inner: look(inner, self.grid)), self.lookers, self.denoiser)
        plain = heeding(plain, self.way) if any(cond.parts for cond in told) else plain
        scale = 1.0 if self.negative is None or getattr(self.system.denoiser, "guided", False) else _scale(self.settings)
        asked = Asked(plain=plain, grid=self.way, scale=scale, negative=self.negative, said=self.said, cond=self.cond)
        return guided(replace(asked, hear=self._hear, words=self._words), self.guides)

    def _hear(self, other: System) -> Cond | None:
        return told(other, self.settings, self.said, self.way)

    def _words(self, said: Any) -> Any:
        return words(self.system.prompt_encoder, said, len(self.way) - 1, plain=self.settings.plain)

    @property
    def model(self) -> Model:
        """What is traced."""
        first = self.guided
        if self.refiner is not None:
            first = Experts(first, self.refiner.guided, 1 - self.settings.handover)
        return reduce(lambda model, pair: pair[0](model), self.around, first)

    @property
    def told(self) -> Any:
        """The condition it is traced under."""
        first: Any = self.cond if self.refiner is None else Heard(self.cond, self.refiner.cond)
        return reduce(lambda cond, pair: pair[1](cond), self.around, first)

    @property
    def x(self) -> Tensor:
        """Equation (1)."""
        path, t = self.system.denoiser.path, self.grid[0]
        x = path.spread(self.noise, t, 1.0) if self.source is None else path.mix(self.rows(self.source), self.noise, t)
        return x.to(getattr(self.system.denoiser, "place", x.device))

    def rows(self, v: Tensor) -> Tensor:
        """What belongs to this batch of v (1 or total, ...): one thing for all pictures, or one for each."""
        count = len(self.said)
        return v.expand(count, *v.shape[1:]) if len(v) == 1 else v[self.first : self.first + count]

    def hear(self, change: Callable[[Cond], Cond]) -> "Start":
        """With a change of the condition and of the negative one."""
        cond, negative = change(self.cond or Cond()), self.negative
        return replace(self, cond=cond, negative=None if negative is None else change(negative))

    def adapt(self, wrap: Callable[[Any], Model]) -> "Start":
        """With an adapter around the denoiser, and inside what takes samples one by one."""
        return replace(self, denoiser=_inside(self.denoiser, wrap))

    def look(self, wrap: Callable[[Model, Tensor], Model]) -> "Start":
        """With something around the adapted denoiser that is told the times, and changes its attention."""
        return replace(self, lookers=(*self.lookers, wrap))

    def put(self, model: Callable[[Model], Model], told: Callable[[Any], Any] = lambda cond: cond) -> "Start":
        """With something more around the model, which hears another condition."""
        return replace(self, around=(*self.around, (model, told)))


def _inside(model: Any, wrap: Callable[[Any], Model]) -> Model:
    """A wrap inside what takes samples one by one."""
    return OneByOne(wrap(model.model)) if isinstance(model, OneByOne) else wrap(model)


Task = Callable[[Start], Start]


def begun(
    system: System, settings: Settings, tasks: Sequence[Task] = (), first: int = 0, guides: Sequence[Guide] | None = None
) -> Start:
    """The batch that begins with picture `first`, with everything the settings and the tasks ask for.

    guides: those of the settings, where they are opened already.
    """
    solver, grid = plan(system, settings)
    asked = settings.prompts()
    said = tuple(settings.said(p) for p in asked[first : first + settings.batch])
    rng = Rng.of(settings.seed + first, len(said))
    noise = system.denoiser.path.noise((len(said), *system.codec.shape(*settings.size)), rng.fold("prior"))
    common: dict[str, Any] = {"settings": settings, "said": said, "first": first, "total": len(asked)}
    common |= {"noise": noise, "rng": rng, "solver": solver, "grid": grid, "way": grid}
    common["guides"] = tuple(map(opened, settings.guide)) if guides is None else tuple(guides)
    second = (
        None if system.refiner is None else Start(system=system.refiner, **heard(system.refiner, settings, said, grid), **common)
    )
    start = Start(system=system, **heard(system, settings, said, grid), **common, refiner=second)
    start = reduce(lambda start, task: task(start), sorted(tasks, key=lambda task: getattr(task, "turn", REST)), start)
    if (more := system.beside) and (start.cond is None or start.cond.concat is None):
        has = system.codec.shape(*settings.size)[0]
        wrong = f"{system.name} changes pictures ({has + more} channels for {has}), and makes none from words alone"
        raise UserError(f"{wrong}: {_use(system)}")
    return start


def _use(system: System) -> str:
    """What a model that is shown a picture is for."""
    if "inpaint" in system.encoders:
        return "give it a picture and a mask, by `reverie inpaint`"
    if "instruct" in system.encoders:
        return "give it a picture and an instruction, by `reverie edit`"
    larger = getattr(system.encoders.get("damaged"), "factor", 1) > 1
    return "it learnt to enlarge, by `reverie upscale` or --then" if larger else "it learnt to mend, by `reverie restore`"


def heard(system: System, settings: Settings, said: Sequence[Any], grid: Tensor) -> dict[str, Any]:
    """The denoiser, before guidance, and its two conditions, by the names of `Start`."""
    model: Any = OneByOne(system.denoiser) if settings.strict else system.denoiser
    if (encoder := system.prompt_encoder) is None:
        if any(t != "" for t in said):
            raise UserError(f"{system.name} is unconditional: it takes no prompt")
        return {"denoiser": model, "cond": None, "negative": None}
    negative = None
    if not getattr(system.denoiser, "guided", False) and (_scale(settings) != 1 or settings.guide):
        away = [settings.negative] * len(said)
        negative = read(encoder, away, settings.size, len(grid) - 1, against=True, plain=settings.plain)
    return {"denoiser": model, "cond": told(system, settings, said, grid), "negative": negative}


def told(system: System, settings: Settings, said: Sequence[Any], grid: Tensor) -> Cond | None:
    """What a system hears of what is said; None where it hears nothing."""
    if (encoder := system.prompt_encoder) is None:
        return None
    away = [settings.negative] * len(said)
    cond = read(encoder, said, settings.size, len(grid) - 1, negative=away, plain=settings.plain)
    guided = getattr(system.denoiser, "guided", False)
    return replace(cond, guidance=torch.full((len(said),), _scale(settings))) if guided else cond


def _scale(settings: Settings) -> float:
    return 1.0 if settings.guidance is None else float(settings.guidance)


def plan(system: System, settings: Settings) -> tuple[Solver, Tensor]:
    """The solver and the times of the steps; an impossible one is a UserError."""
    if settings.solver == TUNED:
        tuned = system.tuned.get(settings.steps or 0)
        if tuned is None:
            known = f", only to {', '.join(map(str, sorted(system.tuned)))}" if system.tuned else ""
            raise UserError(f"{system.name} has no solver tuned to {settings.steps} steps{known}: make one with `reverie tune`")
        return tuned, torch.tensor(tuned.knots, dtype=torch.float64)
    return named(settings.solver or "")[0], gridded(system, settings, settings.steps or 0)


def gridded(system: System, settings: Settings, steps: int) -> Tensor:
    """The times of so many steps on the grid of the settings."""
    card = parse(settings.grid or "")
    return rebuild(_sized(card, settings), GRIDS, "grid")(system.denoiser.path, steps)


def _sized(card: Card, settings: Settings) -> Card:
    """A grid that depends on the size of the picture is told it."""
    return {"width": settings.width, "height": settings.height, **card} if card["name"] in SIZED else card
