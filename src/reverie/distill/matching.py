"""Distribution matching: a student whose pictures, noised, are scored as a teacher's are, or judged by a critic.

With x = G(noise), what the student makes in its few steps, x_t = alpha x + sigma n, real the teacher, fake a denoiser that learns
the student's own pictures all the while, and D a critic (`critics.py`):

    DMD    dL/dx = w (fake(x_t) - real(x_t)),   w = 1 / mean |x - real(x_t)|      (Yin et al., arXiv:2311.18828, eq. 7 and 8)
    SiD    L = w (real - fake) . ((real - x) - a (real - fake)), through x_t, too      (Zhou et al., arXiv:2404.04057, eq. 23)
    ADD    -D(x), and the distance of x to what the teacher makes of x_t                (Sauer et al., arXiv:2311.17042, eq. 4)
    LADD   -D(x), where D reads the teacher's own features of x_t                       (Sauer et al., arXiv:2403.12015)

The student's later steps begin where its own earlier ones lead, with noise put back (DMD2, Yin et al., arXiv:2405.14867, section
4.5); it learns in every `every`-th step only (its section 4.2). In place of features of DINOv2 (ADD) or of the fake net (DMD2), D
looks at patches of slightly noised points.
"""

import copy
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from reverie.card import Card, parse, rebuild, remembers
from reverie.denoiser import Denoiser
from reverie.distill import critics
from reverie.distill.critics import noise
from reverie.distill.shown import Shown
from reverie.distill.steps import knots
from reverie.errors import UserError
from reverie.process.path import like
from reverie.train.objective import TIMES, denoising


@dataclass
class Matching:
    """The losses above by their weights; score: "dmd", "sid" or "". eyes: what D looks at, "patches" or "features".

    times: of the noise that is put on the student's pictures. fake and critic are made by `beside`, and learn with the student.
    """

    steps: int
    grid: str
    times: Any
    score: str = "dmd"
    contest: float = 0.0
    pull: float = 0.0
    every: int = 5
    alpha: float = 1.0
    r1: float = 0.0
    eyes: str = "patches"
    hears: tuple[str, ...] = ()
    card: Card = field(default_factory=dict)
    fake: Any = None
    critic: Any = None

    def beside(self, student: Denoiser, shown: Shown) -> nn.ModuleDict:
        """What learns with the student."""
        made, model = nn.ModuleDict(), cast(Any, shown.taught().model)
        if self.score:
            made["fake"] = self.fake = copy.deepcopy(model).float().requires_grad_(True)
        if self.contest:
            patches = self.eyes == "patches"
            made["critic"] = self.critic = (
                critics.Patches(critics.channels(shown)) if patches else critics.features_of(model, shown, self.times)
            )
        return made

    def __call__(self, student: Denoiser, shown: Shown) -> Tensor:
        learns = shown.key.step % self.every == 0
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            x = self.made(student, shown)
        loss = x.new_zeros(len(x))
        if learns:
            loss = loss + self._student(student, x, shown)
        x = x.detach()
        if isinstance(self.fake, nn.Module):
            t, n = shown.times(self.times, student.path, "fake"), noise(shown, "fake", x)
            loss = loss + denoising(cast(Denoiser, self.fake), x, t, n, shown.cond)
        if self.critic is not None:
            loss = loss + critics.learns(self.critic, shown.x0, x, shown, self.r1)
        return loss

    def made(self, student: Denoiser, shown: Shown) -> Tensor:
        """x: what one of the student's steps makes, the earlier ones without gradient."""
        path, times = student.path, knots(self.grid, student.path, self.steps)
        last = int(self.steps * shown.uniform("step")[0])
        x = path.spread(shown.n, times[0], 1.0)
        for k in range(last):
            with torch.no_grad():
                x = path.mix(student(x, times[k], shown.cond), noise(shown, f"back {k}", x), times[k + 1])
        return student(x, times[last], shown.cond)

    def _student(self, student: Denoiser, x: Tensor, shown: Shown) -> Tensor:
        """What the student learns of its pictures x."""
        teacher, path, loss = shown.taught(), student.path, x.new_zeros(len(x))
        t, n = shown.times(self.times, path), noise(shown, "again", x)
        if self.score == "dmd":
            with torch.no_grad():
                x_t = path.mix(x, n, t)
                real = teacher(x_t, t, shown.cond)
                gap = self.fake(x_t, t, shown.cond) - real
                gap = gap / _far(x, real)
            loss = loss + (x * gap).flatten(1).mean(1)
        if self.score == "sid":
            x_t = path.mix(x, n, t)
            real, fake = teacher.through(x_t, t, shown.cond), critics.still(self.fake, x_t, t, shown.cond)
            terms = (real - fake) * ((real - x) - self.alpha * (real - fake)) / _far(x, real).detach()
            loss = loss + terms.flatten(1).mean(1)
        if self.contest:
            loss = loss + self.contest * critics.fools(self.critic, x, shown)
        if self.pull:
            x_t = path.mix(x.detach(), n, t)
            weight = like(path(t)[0] / (path(t)[0] ** 2 + path(t)[1] ** 2).sqrt(), x)
            loss = loss + self.pull * (weight * (x - teacher(x_t, t, shown.cond))).square().flatten(1).mean(1)
        return loss


def _far(x: Tensor, real: Tensor) -> Tensor:
    size = (x - real).abs().flatten(1).mean(1).clamp(min=1e-3)
    return size.reshape(-1, *[1] * (x.ndim - 1))


def _matching(name: str, steps: int, grid: str, times: str, **more: Any) -> Matching:
    if steps < 1:
        raise UserError(f"{name}: steps is {steps}; a picture takes 1 step or more")
    if more.get("every", 1) < 1:
        raise UserError(f"{name}: every is {more['every']}; the student learns in every step (1) or fewer")
    return Matching(steps, grid, rebuild(parse(times), TIMES, "times"), **more)


LAW = "log_normal(mean=0, deviation=1.4)"


@remembers
def dmd(steps: int = 2, grid: str = "quantiles()", times: str = LAW, every: int = 5, contest: float = 0.0) -> Matching:
    """Distribution matching, with a critic (DMD2) where `contest`, its weight, is above 0."""
    return _matching("dmd", steps, grid, times, every=every, contest=contest)


@remembers
def sid(steps: int = 1, grid: str = "quantiles()", times: str = LAW, every: int = 2, alpha: float = 1.0) -> Matching:
    """Score identity distillation."""
    return _matching("sid", steps, grid, times, score="sid", every=every, alpha=alpha)


@remembers
def add(steps: int = 2, grid: str = "quantiles()", times: str = LAW, contest: float = 0.2, pull: float = 1.0) -> Matching:
    """Adversarial distillation."""
    return _matching("add", steps, grid, times, score="", contest=contest, pull=pull, every=1)


@remembers
def ladd(steps: int = 2, grid: str = "quantiles()", times: str = LAW, contest: float = 1.0, pull: float = 0.0) -> Matching:
    """Latent adversarial distillation, whose critic reads the teacher's features. times: of the noise that it looks through."""
    return _matching("ladd", steps, grid, times, score="", contest=contest, pull=pull, every=1, eyes="features")
