"""Solvers of ours and of the peers, diffusers and k-diffusion, on one toy model, one grid and one noise.

Conventions are converted here and nowhere else: diffusers counts integer timesteps and asks nets for noise or velocity;
k-diffusion, and some of diffusers' schedulers, step y = x / alpha over u = sigma / alpha. Tables that diffusers keeps in float32
are given to it in float64, so that formulas are compared and not roundings.
"""

import importlib
import inspect
import math
import sys
from dataclasses import dataclass, field, replace
from importlib.metadata import distribution
from types import ModuleType
from typing import Any
from unittest import mock

import diffusers
import torch
from paths import F64, mixture
from torch import Tensor

from reverie.process import Path, rules, schedules
from reverie.process.noise import NoiseLaw
from reverie.process.rules import Rule
from reverie.rng import Rng
from reverie.solve import Solver, trace

SHAPE = (5, 2)
VP, FLOW, EDM = schedules.scaled_linear_table(), schedules.flow(), schedules.edm()
OUTPUT = {VP: rules.eps(), FLOW: rules.velocity(), EDM: rules.edm()}  # what diffusers' nets say
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}  # the options that make VP


@dataclass
class Toy:
    """The mixture of the laws, with a variance that depends on x; it keeps the times it was asked at."""

    path: Path
    asked: list[Tensor] = field(default_factory=list)

    def __call__(self, x, t, cond=None):
        self.asked.append(t)
        return mixture(self.path)(x, t)

    def with_variance(self, x, t, cond=None):
        return self(x, t, cond), x.sigmoid()


@dataclass(frozen=True)
class Run:
    """A run of ours from x along grid: the model, and after each step the state, the evaluations so far and the noises drawn."""

    model: Toy
    x: Tensor
    grid: Tensor
    states: list[Tensor]
    evaluations: list[int]
    noises: list[list[Tensor]]

    def noise(self, step: int, whole: bool = True) -> Tensor:
        """That of a step, or of its first half (in log u) only: increments of one Brownian path, whose clock is 1 / u^2.

        Ones where our step drew none: noise that the peer draws there must not matter.
        """
        drawn = self.noises[step]
        if len(drawn) < 2 or not whole:
            return drawn[0] if drawn else torch.ones(SHAPE, dtype=F64)
        alpha, sigma = self.model.path(self.grid[step : step + 2])
        start, end = (alpha / sigma) ** 2
        middle = (start * end).sqrt()
        return ((middle - start).sqrt() * drawn[0] + (end - middle).sqrt() * drawn[1]) / (end - start).sqrt()


def ours(path: Path, grid: Tensor, solver: Solver) -> Run:
    """A run of ours from five noisy points."""
    tape: list[Tensor] = []

    def draw(shape, rng):
        tape.append(rng.normal(shape))
        return tape[-1]

    model, rng = Toy(replace(path, noise=NoiseLaw(draw, gaussian=True))), Rng.of(0, SHAPE[0], dtype=F64)
    x = path.mix(torch.full(SHAPE, 0.4, dtype=F64), rng.fold("start").normal(SHAPE), grid[0])
    run = Run(model, x, grid, [], [], [])
    for step in trace(model, x, grid, solver, rng=rng):
        run.states.append(step.x)
        run.evaluations.append(step.nfe)
        run.noises.append(tape[:])
        tape.clear()
    return run


@dataclass(frozen=True)
class Turns:
    """Solvers that understand each other's state, one for each step; the last also for all that follow."""

    solvers: tuple[Solver, ...]
    order: int = 0

    def init(self):
        return 0, self.solvers[0].init()

    def step(self, model, x, t, s, state, *, cond, rng):
        k, inner = state
        x, inner = self.solvers[min(k, len(self.solvers) - 1)].step(model, x, t, s, inner, cond=cond, rng=rng)
        return x, (k + 1, inner)


def turns(*solvers: Solver) -> Turns:
    return Turns(solvers)


def error(run: Run, theirs: list[Tensor]) -> float:
    """The largest relative distance along two trajectories."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(run.states, theirs, strict=True))


def scheduler(name: str, path: Path, steps: int, **options: Any) -> tuple[Any, Tensor]:
    """A scheduler of diffusers in float64, and its own grid in our times."""
    peer = getattr(diffusers, f"{name}Scheduler")(**options)
    if "beta_schedule" in options:
        table = path.alpha(torch.arange(1, 1001, dtype=F64) / 1000) ** 2
        torch.testing.assert_close(peer.alphas_cumprod, table.float(), rtol=1e-5, atol=0)
        peer.alphas_cumprod = table
    peer.set_timesteps(steps)
    if name == "IPNDM":  # its own schedule has nothing left of the data at the start, where it loses x0
        grid = torch.linspace(1, 0, steps + 1, dtype=F64)
        peer.alphas, peer.betas = path(grid)
        return peer, grid
    if name == "PNDM":  # its timesteps say each stage; the knots lie beneath
        peer.final_alpha_cumprod = peer.final_alpha_cumprod.double()
        return peer, torch.tensor([*(peer._timesteps[::-1] + 1) / 1000, 0.0], dtype=F64)
    if not hasattr(peer, "sigmas"):
        arrival = 1e-3 if name == "TCD" else 0  # where it stops
        return peer, torch.cat([(peer.timesteps.double() + 1) / 1000, torch.tensor([arrival], dtype=F64)])
    for table in ("sigmas", "sigmas_interpol", "sigmas_up", "sigmas_down"):
        if hasattr(peer, table):
            setattr(peer, table, getattr(peer, table).double())
    u = peer.sigmas.unique_consecutive()  # schedulers of two stages say each twice
    if path.alpha(torch.ones(())) == 0:  # on the flow path they mean sigma itself
        u = u / (1 - u)
    return peer, path.t_of_lam(-u.log())


def by_diffusers(peer: Any, run: Run, rule: Rule, **each: Any) -> list[Tensor]:
    """The states of a scheduler's run. Its evaluations are at the times of ours. each: what its `step` is given."""
    path, states = run.model.path, []
    alphas = path(run.grid)[0]
    ones = torch.ones(1, dtype=F64)
    scaled = hasattr(peer, "scale_model_input") and peer.scale_model_input(ones, peer.timesteps[0]) != 1
    y = run.x / alphas[0] if scaled else run.x
    for count, (timestep, t) in enumerate(zip(peer.timesteps, run.model.asked[:], strict=True), start=1):
        (alpha, sigma), (a, b) = path(t), rule(path, t)
        x = alpha * y if scaled else y
        x0, share = run.model.with_variance(x, t)
        output = a * x0 + b * (x - alpha * x0) / sigma
        if peer.config.get("variance_type") == "learned_range":
            output = torch.cat([output, 2 * share - 1], 1)
        if scaled:
            peer.scale_model_input(y, timestep)  # some complain if nobody calls it
        arrived = count in run.evaluations
        noise = run.noise(len(states), whole=arrived)
        with mock.patch.object(inspect.getmodule(type(peer)), "randn_tensor", lambda *_, n=noise, **__: n, create=True):
            y = peer.step(output, timestep, y, return_dict=False, **each)[0].to(F64)
        if arrived:
            states.append(alphas[len(states) + 1] * y if scaled else y)
    return states


def against_diffusers(path: Path, solver: Solver, name: str, options: dict, each: dict | None = None, steps: int = 10) -> float:
    """The distance of our solver from a scheduler on its own grid."""
    peer, grid = scheduler(name, path, steps, **options)
    run = ours(path, grid, solver)
    return error(run, by_diffusers(peer, run, rules.v() if name == "IPNDM" else OUTPUT[path], **(each or {})))


def _k_diffusion() -> ModuleType:
    """k-diffusion's samplers without their package, which would import wandb, kornia, clip and ten more."""
    package = ModuleType("k_diffusion")
    package.__path__ = [str(distribution("k-diffusion").locate_file("k_diffusion"))]
    unused = ("torchdiffeq", "torchsde", "torchvision", "torchvision.transforms")  # likelihood, Brownian trees and pictures
    with mock.patch.dict(sys.modules, {"k_diffusion": package, **{name: mock.MagicMock() for name in unused}}):
        return importlib.import_module("k_diffusion.sampling")


k_diffusion = _k_diffusion()


def by_k_diffusion(name: str, run: Run, **options: Any) -> list[Tensor]:
    """The states of a sampler's run."""
    path, sampler = run.model.path, getattr(k_diffusion, f"sample_{name}")
    alpha, sigma = path(run.grid)
    u, begun = sigma / alpha, []

    def model(y, level):
        t = path.t_of_lam(-level[0].log())
        return run.model(path(t)[0] * y, t)

    def begin(now):
        churn = (now["sigma_hat"] ** 2 - now["sigma"] ** 2).sqrt() * options.get("s_noise", 1)
        begun.append(now["x"] - churn * run.noise(len(begun)))

    def noise(level, to):
        k = int((u - level).abs().argmin())
        return run.noise(k, whole=math.isclose(to, u[k + 1], rel_tol=1e-6))

    takes = inspect.signature(sampler).parameters
    if "noise_sampler" in takes:
        options["noise_sampler"] = noise
    levels = (u,) if "sigmas" in takes else (float(u[-1]), float(u[0]))  # some make their own grid
    with mock.patch.object(torch, "randn_like", lambda y: run.noise(len(begun))):
        last = sampler(model, run.x / alpha[0], *levels, callback=begin, disable=True, **options)
    return [a * y for a, y in zip(alpha[1:], [*begun[1:], last], strict=True)]
