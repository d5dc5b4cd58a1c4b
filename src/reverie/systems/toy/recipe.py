"""How a small MLP learns points in the plane: eight Gaussians on a ring, or a checkerboard."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from reverie.codec import Points
from reverie.errors import UserError, nearest
from reverie.nets.mlp import MLPConfig
from reverie.rng import Rng
from reverie.systems.recipe import Objective, recipe_card
from reverie.systems.system import Sampling, System
from reverie.systems.weights import build_net
from reverie.train.jobs import Diffusion
from reverie.train.loop import Job
from reverie.train.training import Training


def ring(rng: Rng) -> Tensor:
    """Eight Gaussians of deviation 0.1 on a circle of radius 1, one point per seed: (B, 2)."""
    n = len(rng.seeds)
    angle = torch.floor(rng.fold("which").uniform((n,)) * 8) * math.pi / 4
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * rng.normal((n, 2))


def checkerboard(rng: Rng) -> Tensor:
    """Every second square of a 4 x 4 board over [-1, 1]^2: (B, 2)."""
    u = rng.uniform((len(rng.seeds), 3))
    column, half = torch.floor(u[:, 0] * 4), torch.floor(u[:, 1] * 2)
    row = 2 * half + column % 2
    inside = torch.stack([u[:, 0] * 4 % 1, u[:, 1] * 2 % 1], 1)
    return (torch.stack([column, row], 1) + inside) / 2 - 1


SHAPES = {"ring": ring, "checkerboard": checkerboard}


@dataclass(frozen=True, kw_only=True)
class ToyRecipe:
    """A denoiser of points."""

    name: str
    about: str = ""
    shape: str = "ring"
    """ring or checkerboard."""
    count: int = 20000
    net: MLPConfig = field(default_factory=MLPConfig)
    objective: Objective = field(default_factory=Objective)
    sampling: Sampling = field(default_factory=Sampling)
    training: Annotated[Training, tyro.conf.arg(name="")] = field(default_factory=Training)

    def pictures(self) -> Tensor:
        """The points (N, 2)."""
        if self.shape not in SHAPES:
            raise UserError(f"no shape is called '{self.shape}'.{nearest(self.shape, SHAPES)}")
        return SHAPES[self.shape](Rng.of(0, self.count))

    def prompts(self, system: System) -> list[str]:
        return [""] * 16

    def prepare(self, points: Any) -> tuple[System, Job]:
        """A fresh system, and its training job."""
        if self.objective.variance:
            raise UserError(f"{self.name} learns no variance: leave out --objective.variance")
        held = min(self.training.holdout, self.count // 2)
        torch.manual_seed(self.training.seed)
        denoiser = self.objective.denoiser(build_net(self.net), self.training.autocast)
        job = Diffusion(denoiser, points[held:], points[:held], **self.objective.laws(0))
        about = {"name": self.name, "data": {"name": self.shape, "licence": "none needed"}, "recipe": recipe_card(self)}
        return System(denoiser=denoiser, codec=Points(), defaults=self.sampling, about=about), job


TOY = ToyRecipe(
    name="toy-2d",
    about="points in the plane; seconds",
    objective=Objective(path="flow()", rule="velocity()", clock="timestep(steps=1000)", times="uniform()"),
    sampling=Sampling(solver="heun", steps=20, grid="uniform()"),
    training=Training(steps=4000, batch=256, rate=2e-3, warmup=50, bf16=False, snapshots=0),
)
