"""Students of a model: few-step methods as recipes, and how what they make is drawn.

reverie distill fast --teacher reverie-avatars --steps 2 --minutes 30
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie import distill
from reverie.card import card_of, parse, rebuild
from reverie.data.pictures import Pictures
from reverie.denoiser import Cond, Denoiser
from reverie.distill import Distilling, Method, Store, Teacher, student_of
from reverie.encode import Classes
from reverie.errors import UserError
from reverie.process.grids import GRIDS
from reverie.solve import Solver, named
from reverie.systems.opening import LEARNING
from reverie.systems.recipe import Preset, channels_last, encode, prompt_of
from reverie.systems.shipped import open_model
from reverie.systems.system import Sampling, System
from reverie.train.loop import Job
from reverie.train.training import Training

NEEDED, ASKED, NEVER = "needed", "asked", "never"


@dataclass(frozen=True)
class Kind:
    """A method by its constructor. about: in a line. solver: what its students are drawn with. pairs: it learns from pairs that the
    teacher makes. teacher: whether it needs one, or asks one for its velocity where there is one, or learns from data alone.
    count: its argument that is the number of steps; grid: it takes theirs."""

    make: Callable[..., Any]
    about: str
    solver: str = "ddim"
    pairs: bool = False
    teacher: str = NEEDED
    count: str = ""
    grid: bool = False


KINDS = {
    kind.make.__name__: kind
    for kind in (
        Kind(distill.fast, "the few steps alone, each as good as several of the teacher", count="steps", grid=True),
        Kind(distill.progressive, "two steps in one, again and again", count="end", grid=True),
        Kind(distill.guidance, "one evaluation in place of two, for every scale of guidance"),
        Kind(distill.consistency, "every point of a trajectory knows where it ends", "lcm"),
        Kind(distill.trajectory, "every point of a trajectory knows all that follow"),
        Kind(distill.reflow, "noise and the picture the teacher makes of it, along straighter ways", pairs=True),
        Kind(distill.one_step, "the picture the teacher makes of the noise, at once", pairs=True),
        Kind(distill.dmd, "pictures that are scored as the teacher's are", "lcm", count="steps", grid=True),
        Kind(distill.sid, "the same, by the identity that scores have", "lcm", count="steps", grid=True),
        Kind(distill.add, "an adversary, and the teacher's word on what is noised again", "lcm", count="steps", grid=True),
        Kind(distill.ladd, "an adversary that reads the teacher's features", "lcm", count="steps", grid=True),
        Kind(distill.scm, "consistency in continuous time", "lcm", teacher=ASKED),
        Kind(distill.meanflow, "the average velocity between any two times", teacher=ASKED),
        Kind(distill.improved_meanflow, "the same, by the student's own velocity", teacher=ASKED),
        Kind(distill.ect, "a diffusion model tuned to consistency, from data", "lcm", teacher=NEVER),
        Kind(distill.ict, "consistency from coarse steps to fine, from data", "lcm", teacher=NEVER),
        Kind(distill.shortcut, "steps of every length, from data", teacher=NEVER),
        Kind(distill.moments, "what is reached from two times has one distribution, from data", teacher=NEVER),
        Kind(
            distill.denoising_gan,
            "steps that an adversary takes for real ones, from data",
            "ddpm",
            teacher=NEVER,
            count="steps",
            grid=True,
        ),
        Kind(distill.coupled, "straighter ways, by noise that is near its point, from data", teacher=NEVER),
    )
}


def times(model: Denoiser) -> str:
    """A grid for few steps, as a call: where data of the deviation that the model was made for are decided."""
    return f"quantiles(mean={math.log(model.sigma_data or 1.0) + 0.6:.3g}, deviation=1.6)"


def empty(base: System) -> Callable[[int], Cond | None]:
    """What a system's prompt says that says nothing, so many times."""
    encoder = base.prompt_encoder
    if encoder is None:
        return lambda count: None
    with torch.no_grad():
        one = encoder.prompts([""])
    return lambda count: one.map(lambda v: v.expand(count, *v.shape[1:]))


def pace(base: System) -> tuple[Solver, Tensor]:
    """How a system draws: its solver, and its times."""
    grid = rebuild(parse(base.defaults.grid), GRIDS, "grid")(base.denoiser.path, base.defaults.steps)
    return named(base.defaults.solver)[0], grid


@dataclass(frozen=True, kw_only=True)
class Distillation(Preset):
    """A student of `teacher`, by a method as a call."""

    teacher: str
    method: str
    begin: str = ""
    """The model that the student begins as, in the teacher's space and process; '' = the teacher."""
    draws: int = 2
    """Steps that a picture of the student takes."""
    scale: float | None = None
    """The teacher's guidance; none = its own default."""
    scales: tuple[float, ...] = ()
    """Two scales of guidance, between which the student is told one; none = it has learnt that of the teacher."""
    data_alone: bool = False
    """The teacher's weights are where the student begins, and it is not asked again."""
    pairs: int = 2000
    """Pictures that the teacher makes, of methods that learn from pairs."""
    rank: int = 0
    """Of the low-rank changes of the teacher's linear layers, which alone learn then; 0 = the whole net learns."""
    compared: int = 48
    """Held-out prompts whose pictures are compared with the teacher's."""
    training: Training = field(
        default_factory=lambda: Training(batch=16, rate=2e-4, warmup=20, decay=0.5, widths=(0.05,), snapshots=0)
    )

    @property
    def kind(self) -> Kind:
        return KINDS[parse(self.method)["name"]]

    def made(self, model: Denoiser) -> Method:
        """The method, told of the steps that the student will take."""
        card = dict(parse(self.method))
        if self.kind.count:
            card.setdefault(self.kind.count, self.draws)
        if self.kind.grid:
            card.setdefault("grid", times(model))
        method: Method = rebuild(card, [kind.make for kind in KINDS.values()], "method")
        return method

    @property
    def taught(self) -> bool:
        """Whether the teacher is asked."""
        return self.kind.teacher == NEEDED or (self.kind.teacher == ASKED and not self.data_alone)

    def prompts(self, system: System) -> Sequence[Any]:
        """Sixteen prompts for previews."""
        if isinstance(known := system.encoders.get("class"), Classes):
            return [i % len(known.classes) for i in range(16)]
        samples = system.about.get("recipe", {}).get("samples", ())
        return list(samples)[:16] or [""] * 16

    def prepare(self, pictures: Pictures) -> tuple[System, Job]:
        """The student as a system, and its training job."""
        base = open_model(self.teacher, LEARNING)
        scale = base.defaults.guidance if self.scale is None else self.scale
        self._check()
        train, held = self.split(pictures)
        torch.manual_seed(self.training.seed)
        model: Any = base.denoiser
        method = self.made(model)
        student = student_of(self._begun(base), method, self.training.autocast, ("guidance",) if self.scales else (), self.rank)
        channels_last(student)
        grid, solver = self.sampling(student)
        teacher = Teacher(model, scale, empty(base))
        job = Distilling(
            student,
            encode(base.codec, train.images),
            encode(base.codec, held.images),
            method=method,
            teacher=teacher if self.taught else None,
            solver=solver,
            grid=rebuild(parse(grid), GRIDS, "grid")(student.path, self.draws),
            scales=(min(self.scales), max(self.scales)) if self.scales else None,
            told=scale if self.scales else None,
            encoder=base.prompt_encoder,
            prompt=prompt_of(train),
            held_prompt=prompt_of(held),
            drop=0.0 if self.taught and scale != 1 else 0.1,
        )
        own = pace(base)
        if self.taught:
            job.truth = job.drawn_by(teacher, *own, min(self.compared, len(held)))
        if self.kind.pairs:
            job.pairs(self._store(base, teacher, train, own, job), self.training.batch)
        return self._system(base, student, grid, scale), job

    def _check(self) -> None:
        """UserError for what does not go together."""
        if self.scales and (self.kind.pairs or not self.taught):
            name = parse(self.method)["name"]
            raise UserError(f"{name} learns no scale of guidance: leave out --scales, or choose a method that asks the teacher")
        if parse(self.method)["name"] == "guidance" and not self.scales:
            raise UserError("guidance learns every scale between two: say which, as --scales 1 6")
        if self.rank < 0:
            raise UserError(f"the rank of a LoRA is {self.rank}; it is 1 or more")
        if self.rank and self.begin:
            raise UserError("a LoRA is a change of the teacher: leave out --begin, or --as-lora")

    def _begun(self, base: System) -> Denoiser:
        """What the student is at first; UserError where it cannot take the teacher's place."""
        if not self.begin:
            return base.denoiser
        other = open_model(self.begin, LEARNING)
        pairs = [
            ("points", other.codec.shape(*base.defaults.size), base.codec.shape(*base.defaults.size)),
            ("process", card_of(other.denoiser.path), card_of(base.denoiser.path)),
            ("encoders", card_of(other.encoders), card_of(base.encoders)),
        ]
        for what, own, theirs in pairs:
            if own != theirs:
                raise UserError(f"{self.begin} cannot begin as a student of {base.name}: it has other {what} ({own}, not {theirs})")
        return other.denoiser

    def sampling(self, student: Denoiser) -> tuple[str, Solver]:
        """The grid and the solver that the student is drawn with."""
        return times(student), named(self.kind.solver)[0]

    def _system(self, base: System, student: Denoiser, grid: str, scale: float) -> System:
        about = {k: v for k, v in base.about.items() if k in ("styles", "data", "licence")}
        told = {"teacher": base.name, "hash": base.hash, "method": self.method, "steps": self.draws}
        told_of = scale if self.scales else 1.0
        defaults = Sampling(solver=self.kind.solver, steps=self.draws, guidance=told_of, grid=grid, size=base.defaults.size)
        recipe = {**self.card()["recipe"], "samples": list(base.about.get("recipe", {}).get("samples", ()))}
        about |= {"name": self.name, "recipe": recipe, "distilled": told}
        return System(encoders=base.encoders, codec=base.codec, denoiser=student, defaults=defaults, about=about)

    def _store(self, base: System, teacher: Teacher, train: Pictures, own: tuple[Solver, Tensor], job: Distilling) -> Store:
        if self.pairs < 1:
            raise UserError(f"pairs is {self.pairs}; give 1 or more pictures for the teacher to make")
        prompt = prompt_of(train)
        said = None if prompt is None else (lambda k: prompt(k % len(train), np.random.default_rng([k, self.training.seed])))
        shape = base.codec.shape(*base.defaults.size)
        return Store(teacher, self.pairs, shape, *own, said=said, cond=lambda said: job._cond(said, None), seed=self.training.seed)
