"""Training on examples of several sizes, some of which may have masks, mirror images and weights of their own.

With m the mask at the places of the diffusion's space and w the weight of an example, its loss is

    w sum(m e) / sum(m),  e the squared error at each place                                                       (1)

so that a small mask makes an example no less important, and what it hides teaches nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reverie.denoiser import Cond, Denoiser
from reverie.train.batches import Batches
from reverie.train.jobs import Diffusion, Prompt
from reverie.train.loop import Key
from reverie.train.objective import TimeLaw, denoising, draw_times


@dataclass(frozen=True, eq=False, kw_only=True)
class Points:
    """n examples of one size, in the space of the diffusion: (n, C, h, w).

    mask (n, 1, h, w) in [0, 1]; None = all counts. mirrored: the same examples mirrored, seen half of the time where `flips` (n,)
    says so. weights (n,) of their losses, None = 1. drop (n,): the chance that nothing is said, or one for all.
    """

    x0: Tensor
    prompt: Prompt | None = None
    mask: Tensor | None = None
    mirrored: Tensor | None = None
    flips: np.ndarray | None = None
    weights: Tensor | None = None
    drop: float | np.ndarray = 0.0


class Sized(Diffusion):
    """Trains on examples of one size, by eq. (1). sides: height and width of the pictures they stand for."""

    def __init__(
        self, denoiser: Denoiser, seen: Points, held: Points, *, sides: tuple[int, int], times: TimeLaw, encoder: Any = None
    ) -> None:
        super().__init__(
            denoiser, seen.x0, held.x0, times=times, prompt=seen.prompt, held_prompt=held.prompt, drop=seen.drop
        )  # fmt: skip
        self.encoder, self.seen, self.kept, self.sides = encoder, seen, held, sides

    def points(self, index: np.ndarray, key: Key) -> Tensor:
        x0 = super().points(index, key)
        flips = self._flips(index, key)
        if self.seen.mirrored is None or not flips.any():
            return x0
        x0 = x0.clone()
        x0[flips] = self.seen.mirrored[torch.from_numpy(index)][flips]
        return x0

    def _flips(self, index: np.ndarray, key: Key) -> Tensor:
        """Which of these examples are seen mirrored in a step."""
        if self.seen.flips is None:
            return torch.zeros(len(index), dtype=torch.bool)
        return torch.from_numpy((key.numpy("flip").random(len(index)) < 0.5) & self.seen.flips[index])

    def loss(self, index: np.ndarray, key: Key) -> Tensor:
        x0, n, cond = self.given(index, key)
        t = draw_times(self.times, self.denoiser.path, len(index), key.torch("time"))
        loss = denoising(self.denoiser, x0, t, n, cond, mask=self.mask(index, key))
        return loss if self.seen.weights is None else loss * self.seen.weights[torch.from_numpy(index)]

    def mask(self, index: np.ndarray, key: Key) -> Tensor | None:
        """The masks (B, 1, h, w) of these examples, mirrored where they are; None where there are none."""
        if self.seen.mask is None:
            return None
        mask = self.seen.mask[torch.from_numpy(index)]
        return torch.where(self._flips(index, key)[:, None, None, None], mask.flip(-1), mask)

    def _cond(self, said: Sequence[Any] | None, seen: Tensor | None) -> Cond | None:
        if said is None or self.encoder is None:
            return None
        cond: Cond = self.encoder.prompts(said, self.sides)
        if self.denoiser.guided:  # pictures are what they are without guidance
            cond = replace(cond, guidance=torch.ones(len(said)))
        return cond

    def measured(self, rows: np.ndarray, x0: Tensor, t: Tensor, n: Tensor, cond: Cond | None) -> Tensor:
        mask = None if self.kept.mask is None else self.kept.mask[torch.from_numpy(rows)]
        return denoising(self.denoiser, x0, t, n, cond, mask=mask)


class Mixed:
    """Trains on several sizes: a job for each, and the batches that are of one of them.

    Examples are numbered through, those of the first job before those of the second.
    """

    def __init__(self, jobs: Sequence[Sized], batches: Batches, module: nn.Module) -> None:
        self.jobs, self.batches, self.module = tuple(jobs), batches, module
        self.first = np.cumsum([0, *(len(job.data) for job in jobs)])
        self.size = int(self.first[-1])

    @property
    def visits(self) -> int:
        """How many examples an epoch sees, with repeats."""
        return sum(map(len, self.batches.own))

    def order(self, batch: int, step: int, seed: int) -> np.ndarray:
        """The examples of a step's batch."""
        return self.batches.order(batch, step, seed)

    def loss(self, index: np.ndarray, key: Key) -> Tensor:
        """Per sample (B,), in the order of their sizes where they are of several."""
        where = np.searchsorted(self.first, index, side="right") - 1
        of = partial(self._loss, index=index, where=where, key=key)
        return torch.cat([of(job) for job in np.unique(where)])

    def _loss(self, job: int, index: np.ndarray, where: np.ndarray, key: Key) -> Tensor:
        return self.jobs[job].loss(index[where == job] - self.first[job], key)

    def validate(self) -> float:
        """The mean loss of what is held out, of all sizes."""
        every = [(len(job.held), job.validate()) for job in self.jobs if len(job.held)]
        return sum(count * loss for count, loss in every) / sum(count for count, _ in every)
