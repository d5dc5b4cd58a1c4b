"""Denoising diffusion GANs (Xiao et al., arXiv:2112.07804): few steps of noise, each of whose ends a critic cannot tell from real.

    x_t = alpha x_0 + sigma n,   x_s ~ q(x_s | x_t, x_0) from the real point, and from the student's estimate G(x_t, t)
    L = -D(x_s of G, x_t, t) for the student, and D learns to tell the two                                          (1)

from data alone. When it is drawn with, q puts its noise in (`ddpm`). There G also gets a latent z, and can give one x_t several
ends; here what is random in a picture is the noise of the steps.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from reverie.card import Card, remembers
from reverie.denoiser import Denoiser
from reverie.distill import critics
from reverie.distill.shown import Shown
from reverie.distill.steps import knots
from reverie.errors import UserError
from reverie.process.path import Path, like
from reverie.rng import Rng, digest


@dataclass
class DenoisingGan:
    """Equation (1), on the steps of a grid."""

    steps: int
    grid: str
    r1: float
    hears: tuple[str, ...] = ()
    card: Card = field(default_factory=dict)
    critic: Any = None

    def beside(self, student: Denoiser, shown: Shown) -> nn.Module:
        """The critic, which learns with the student."""
        self.critic = critics.Steps(critics.channels(shown))
        return self.critic

    def __call__(self, student: Denoiser, shown: Shown) -> Tensor:
        path, times = student.path, knots(self.grid, student.path, self.steps)
        k = (shown.uniform("step") * self.steps).long()
        t, s = times[k], times[k + 1]
        x_t = path.mix(shown.x0, shown.n, t)

        def step(x0: Tensor, purpose: str) -> Tensor:
            rng = Rng(tuple(digest(shown.key.seed, purpose, shown.key.step, i) for i in range(len(t))), dtype=x_t.dtype)
            ends = path.bridge(x_t, x0, t, s, eta=1.0, rng=rng)
            return critics.levelled(torch.cat([scaled(path, ends, s), scaled(path, x_t, t)], 1), t)

        made = step(student(x_t, t, shown.cond), "made")
        loss = critics.fools(self.critic, made, shown)
        return loss + critics.learns(self.critic, step(shown.x0, "real"), made.detach(), shown, self.r1)


def scaled(path: Path, x: Tensor, t: Tensor) -> Tensor:
    """x_t (B, ...) where it is about as large as clean points and noise are."""
    alpha, sigma = path(t)
    return x / like((alpha**2 + sigma**2).sqrt(), x)


@remembers
def denoising_gan(steps: int = 4, grid: str = "quantiles()", r1: float = 0.1) -> DenoisingGan:
    """A denoising diffusion GAN of so many steps."""
    if steps < 1 or not r1 >= 0:
        raise UserError(f"denoising_gan: steps is {steps} and r1 {r1}; steps is 1 or more, and r1 0 or more")
    return DenoisingGan(steps, grid, r1)
