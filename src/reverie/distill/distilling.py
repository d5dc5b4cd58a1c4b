"""The job of teaching a student: few-step methods over the trainer that there is."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reverie.denoiser import Cond, Denoiser
from reverie.distill.pairs import Store
from reverie.distill.shown import Method, Shown, Teacher
from reverie.errors import UserError
from reverie.nets.clocks import tell
from reverie.nets.lora import adapt
from reverie.rng import Rng, digest
from reverie.solve import Solver, sample
from reverie.train.jobs import Diffusion
from reverie.train.loop import Key

FAR, ALIKE = 6.0, 0.003
"""In shares of the variance of data: from where on pictures have gone astray."""


def student_of(
    model: Denoiser, method: Method, autocast: torch.dtype | None = None, hears: tuple[str, ...] = (), rank: int = 0
) -> Denoiser:
    """A copy of the model that learns, told the clocks of the method, and others; at first it is the model, bit for bit.

    rank: of low-rank changes, which alone learn then; 0 = the whole net learns.
    """
    net = copy.deepcopy(model.net).float().requires_grad_(not rank)
    clocks = (*method.hears, *hears)
    if rank and clocks:
        raise UserError(
            f"{_name(method)} tells the net a further time or scale ({clocks[0]}), which is no LoRA: leave out --as-lora"
        )
    if rank and not adapt(net, rank):
        raise UserError("this net has no linear layer, which a LoRA would change: leave out --as-lora")
    made = Denoiser(
        tell(net, clocks) if clocks else net,
        model.path,
        model.rule,
        model.clock,
        sigma_data=model.sigma_data,
        learned_variance=model.learned_variance,
        bound=model.bound,
        autocast=autocast,
    )
    check(made, method)
    return made


def check(student: Denoiser, method: Method) -> None:
    """UserError where the net cannot learn what the method asks of it."""
    name = _name(method)
    if not student.path.noise.gaussian:
        raise UserError(f"{name} follows the flow of Gaussian noise, and this model's is another: there is no method for it")
    student.solution(torch.ones((), dtype=torch.float64))  # says so itself where nothing can be told at the beginning of the way
    keep, take = student.solution(torch.tensor(1e-7, dtype=torch.float64))
    if abs(float(keep) - 1) > 1e-2 or abs(float(take)) > 1e-2:
        raise UserError(
            f"{name} needs a net whose estimate is its input itself where there is no noise, and '{_rule(student)}' is not: "
            "train the teacher with velocity(), v() or edm()"
        )


def _name(method: Method) -> str:
    return str(method.card.get("name", "this method"))


def _rule(student: Denoiser) -> str:
    return str(getattr(student.rule, "card", {}).get("name", "its rule"))


class Distilling(Diffusion):
    """Teaches the denoiser by a method.

    scales: between which a scale of guidance is drawn for each sample, or None; told: that which is told when it is compared.
    solver, grid: how the student is drawn with then, beside the teacher's pictures `truth` (H, ...) of the same noise and words.
    """

    def __init__(
        self,
        student: Denoiser,
        data: Tensor,
        held: Tensor,
        *,
        method: Method,
        teacher: Teacher | None,
        solver: Solver,
        grid: Tensor,
        truth: Tensor | None = None,
        scales: tuple[float, float] | None = None,
        told: float | None = None,
        **named: Any,
    ) -> None:
        super().__init__(student, data, held, times=lambda path, u: u, **named)
        self.method, self.teacher, self.solver, self.grid = method, teacher, solver, grid
        self.truth, self.scales, self.told, self.slow = truth, scales, told, 0
        self.store: Store | None = None
        if self.encoder is not None:
            self.encoder.requires_grad_(False)
        beside = getattr(method, "beside", None)
        self.module = nn.ModuleDict({"denoiser": student} | ({} if beside is None else {"method": beside(student, self._some())}))

    def _some(self) -> Shown:
        """What a method may be shown before it begins: two samples."""
        key = Key(0, 0)
        x0, n, cond = self.given(self.rows[:2], key)
        return Shown(x0=x0, n=n, cond=cond, key=key, teacher=self.teacher)

    def pairs(self, store: Store, batch: int) -> None:
        """From now on it is taught on these, which are made in the first steps."""
        self.store, self.rows, self.size = store, np.arange(len(store)), len(store)
        self.slow = -(-len(store) // batch)

    def loss(self, index: np.ndarray, key: Key) -> Tensor:
        x0, n, cond = self.given(self.rows[index], key)
        if self.scales is not None:
            low, high = self.scales
            cond = replace(cond or Cond(), guidance=low + (high - low) * torch.rand(len(n), generator=key.torch("scale")))
        return self.method(self.denoiser, Shown(x0=x0, n=n, cond=cond, key=key, teacher=self.teacher, share=key.share))

    def given(self, index: np.ndarray, key: Key) -> tuple[Tensor, Tensor, Cond | None]:
        if self.store is None:
            return super().given(index, key)
        x0, n, said = self.store(index)
        return x0, n, self._cond(said, None)

    def _cond(self, said: Any, seen: Tensor | None) -> Cond | None:
        with torch.no_grad():
            return super()._cond(said, seen)

    @torch.no_grad()
    def validate(self, batch: int = 64) -> float:
        """The mean square distance to the teacher's pictures of the same noise and words; without a teacher, the energy distance
        (Szekely & Rizzo, 2013) to those held out, over the root of the numbers that a picture has."""
        made = self.drawn(len(self.held if self.truth is None else self.truth), batch)
        if self.truth is not None:
            return float((made - self.truth).square().mean())
        return energy(made.flatten(1), self.held.flatten(1)) / made[0].numel() ** 0.5

    @torch.no_grad()
    def astray(self) -> str:
        """Whether eight of its pictures lie far outside of all data, or are nearly one: adversaries end so that win or lose."""
        training = self.denoiser.training
        self.denoiser.eval()
        made, data = self.drawn(8), self.held[:64]
        self.denoiser.train(training)
        spread = float((data - data.mean(0)).square().mean())
        far = float((made - data.mean(0)).square().mean()) / spread
        alike = float((made - made.mean(0)).square().mean()) / spread
        if not far < FAR:
            return f"draws pictures {far:.3g} times further from the mean than data are"
        return f"draws pictures that are all but one ({alike:.2g} of the data's variance)" if alike < ALIKE else ""

    @torch.no_grad()
    def drawn(self, count: int, batch: int = 64) -> Tensor:
        """(N, ...): what the student draws of the held-out words and fixed noise."""
        return self.drawn_by(self.denoiser, self.solver, self.grid, count, batch)

    @torch.no_grad()
    def drawn_by(self, model: Any, solver: Solver, grid: Tensor, count: int, batch: int = 64) -> Tensor:
        """The same by another model."""
        out, path = [], self.denoiser.path
        for first in range(0, count, batch):
            rows = range(first, min(first + batch, count))
            said = None
            if self.held_prompt is not None:
                said = [self.held_prompt(k % len(self.held), np.random.default_rng(digest("validation", k))) for k in rows]
            rng = Rng(tuple(digest("validation", k) for k in rows), dtype=self.held.dtype)
            x = path.prior((len(rows), *self.held.shape[1:]), grid[0], rng=rng, spread=1.0)
            cond = self._cond(said, None)
            if self.told is not None:
                cond = replace(cond or Cond(), guidance=torch.full((len(rows),), self.told))
            out.append(sample(model, x, grid, solver, cond=cond, rng=rng))
        return torch.cat(out)


def energy(one: Tensor, other: Tensor) -> float:
    """2 E|a - b| - E|a - a'| - E|b - b'| of points (N, D) and (M, D)."""

    def within(x: Tensor) -> Tensor:
        return torch.cdist(x, x).sum() / (len(x) * max(1, len(x) - 1))

    return float(2 * torch.cdist(one, other).mean() - within(one) - within(other))
