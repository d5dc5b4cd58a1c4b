"""Distribution matching: a student whose pictures, noised, are scored as a teacher's are; and adversaries.

With x = G(noise), what the student makes in its few steps, x_t = alpha x + sigma n, real the teacher, fake a denoiser that learns
the student's own pictures all the while, and critic a discriminator:

    DMD    dL/dx = w (fake(x_t) - real(x_t)),   w = 1 / mean |x - real(x_t)|      (Yin et al., arXiv:2311.18828, eq. 7 and 8)
    SiD    L = w (real - fake) . ((real - x) - a (real - fake)), through x_t, too      (Zhou et al., arXiv:2404.04057, eq. 23)
    GAN    L = -critic(x_t) for the student;  relu(1 - critic(real x_t)) + relu(1 + critic(x_t)) for the critic           (1)
    ADD    GAN, and the distance of x to what the teacher makes of x_t                  (Sauer et al., arXiv:2311.17042, eq. 4)

The student's later steps begin where its own earlier ones lead, with noise put back (DMD2, Yin et al., arXiv:2405.14867, section
4.5); it learns in every `every`-th step only (its section 4.2). In place of features of DINOv2 or of the fake net, the critic looks
at patches of the slightly noised points.
"""

import copy
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from reverie.card import Card, parse, rebuild, remembers
from reverie.denoiser import Cond, Denoiser
from reverie.distill.shown import Shown, Teacher
from reverie.distill.steps import knots
from reverie.errors import UserError
from reverie.nets.patchgan import PatchGAN, PatchGANConfig
from reverie.process.path import like
from reverie.train.objective import TIMES, denoising


@dataclass
class Matching:
    """The losses above by their weights; score: "dmd", "sid" or "".

    times: of the noise that is put on the student's pictures; light: the most sigma / alpha that a critic sees. fake and critic are
    made by `beside`, and learn with the student.
    """

    steps: int
    grid: str
    times: Any
    score: str = "dmd"
    contest: float = 0.0
    pull: float = 0.0
    every: int = 5
    alpha: float = 1.0
    light: float = 0.5
    hears: tuple[str, ...] = ()
    card: Card = field(default_factory=dict)
    fake: Any = None
    critic: Any = None

    def beside(self, student: Denoiser, teacher: Teacher | None) -> nn.ModuleDict:
        """What learns with the student."""
        if teacher is None:
            raise UserError("this method imitates a model: name it with --teacher")
        made = nn.ModuleDict()
        if self.score:
            model: Any = teacher.model
            made["fake"] = self.fake = copy.deepcopy(model).float().requires_grad_(True)
        if self.contest:
            made["critic"] = self.critic = Critic(int(getattr(getattr(student.net, "config", None), "in_channels", 3)))
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
            t, n = shown.times(self.times, student.path, "fake"), _noise(shown, "fake", x)
            loss = loss + denoising(cast(Denoiser, self.fake), x, t, n, shown.cond)
        if self.critic is not None:
            u = self.light * shown.uniform("light")
            seen, real = (v + like(u, v) * _noise(shown, name, v) for name, v in (("seen", x), ("real", shown.x0)))
            loss = loss + F.relu(1 - self.critic(real, u)) + F.relu(1 + self.critic(seen, u))
        return loss

    def made(self, student: Denoiser, shown: Shown) -> Tensor:
        """x: what one of the student's steps makes, the earlier ones without gradient."""
        path, times = student.path, knots(self.grid, student.path, self.steps)
        last = int(self.steps * shown.uniform("step")[0])
        x = path.spread(shown.n, times[0], 1.0)
        for k in range(last):
            with torch.no_grad():
                x = path.mix(student(x, times[k], shown.cond), _noise(shown, f"back {k}", x), times[k + 1])
        return student(x, times[last], shown.cond)

    def _student(self, student: Denoiser, x: Tensor, shown: Shown) -> Tensor:
        """What the student learns of its pictures x."""
        teacher, path, loss = shown.taught(), student.path, x.new_zeros(len(x))
        t, n = shown.times(self.times, path), _noise(shown, "again", x)
        if self.score == "dmd":
            with torch.no_grad():
                x_t = path.mix(x, n, t)
                real = teacher(x_t, t, shown.cond)
                gap = self.fake(x_t, t, shown.cond) - real
                gap = gap / _far(x, real)
            loss = loss + (x * gap).flatten(1).mean(1)
        if self.score == "sid":
            x_t = path.mix(x, n, t)
            real, fake = teacher.through(x_t, t, shown.cond), _still(self.fake, x_t, t, shown.cond)
            terms = (real - fake) * ((real - x) - self.alpha * (real - fake)) / _far(x, real).detach()
            loss = loss + terms.flatten(1).mean(1)
        if self.contest:
            u = self.light * shown.uniform("light")
            seen = x + like(u, x) * _noise(shown, "seen", x)
            loss = loss - self.contest * functional_call(self.critic, _held(self.critic), (seen, u))
        if self.pull:
            x_t = path.mix(x.detach(), n, t)
            weight = like(path(t)[0] / (path(t)[0] ** 2 + path(t)[1] ** 2).sqrt(), x)
            loss = loss + self.pull * (weight * (x - teacher(x_t, t, shown.cond))).square().flatten(1).mean(1)
        return loss


class Critic(nn.Module):
    """(x (B, C, H, W), noise (B,)) -> (B,): how real x looks, with so much noise on it."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.net = PatchGAN(PatchGANConfig(in_channels=channels + 1, channels=32, layers=2))

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        level = like(u, x).expand(-1, 1, *x.shape[2:])
        out: Tensor = self.net(torch.cat([x, level], 1)).flatten(1).mean(1)
        return out


def _noise(shown: Shown, purpose: str, x: Tensor) -> Tensor:
    return torch.randn(x.shape, generator=shown.key.torch(purpose), dtype=x.dtype)


def _far(x: Tensor, real: Tensor) -> Tensor:
    size = (x - real).abs().flatten(1).mean(1).clamp(min=1e-3)
    return size.reshape(-1, *[1] * (x.ndim - 1))


def _held(module: nn.Module) -> dict[str, Tensor]:
    """Its weights, without a gradient to them."""
    return {k: v.detach() for k, v in (*module.named_parameters(), *module.named_buffers())}


def _still(model: Any, x: Tensor, t: Tensor, cond: Cond | None) -> Tensor:
    """An estimate whose gradient goes to x alone."""
    if not isinstance(model, nn.Module):
        estimate: Tensor = model(x, t, cond)
        return estimate
    out: Tensor = functional_call(model, _held(model), (x, t, cond))
    return out


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
