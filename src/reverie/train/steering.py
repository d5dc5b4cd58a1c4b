"""Training of controls: the model around which they stand stays as it is (Zhang et al., ControlNet, arXiv:2302.05543)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reverie.data.kinds import CHANNELS, told
from reverie.denoiser import Cond
from reverie.process.grids import karras
from reverie.rng import Rng, digest
from reverie.solve import Exponential, sample
from reverie.train.jobs import Diffusion


class Steering(Diffusion):
    """A `Diffusion` whose denoiser hears hints, of which only `learnt` learns, or `parts` of it. codec: of its space."""

    STEPS, COUNT = 12, 8

    def __init__(self, *given: Any, learnt: nn.Module, parts: Sequence[nn.Module] = (), codec: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.module.requires_grad_(False)
        for part in parts or (learnt,):
            part.requires_grad_(True)
        self.module = nn.ModuleDict({"control": learnt})
        self.codec = codec

    def _cond(self, said: Sequence[Any] | None, seen: Tensor | None) -> Cond | None:
        with torch.no_grad():
            cond = super()._cond(said, None)
        return cond if seen is None else replace(cond or Cond(), hints=(seen,))

    @torch.no_grad()
    def shown(self) -> Tensor:
        """(24, C, H, W): hints of held-out pictures, what is drawn from them and their words, and the pictures."""
        count = min(self.COUNT, len(self.held))
        assert self.held_view is not None
        rngs = [np.random.default_rng(digest("shown", k)) for k in range(count)]
        said = None if self.held_prompt is None else [self.held_prompt(k, rng) for k, rng in enumerate(rngs)]
        seen = self.held_view(np.arange(count), rngs[0])
        path, rng = self.denoiser.path, Rng.of(0, count)
        x = path.prior(self.held[:count].shape, rng=rng, spread=1.0)
        made = sample(self.denoiser, x, karras(smallest=0.02)(path, self.STEPS), Exponential(2), cond=self._cond(said, seen))
        drawn, whole = self.codec.decode(made), self.codec.decode(self.held[:count])
        return torch.cat([_first(seen)[:, : drawn.shape[1]], drawn, whole])


def _first(seen: Tensor) -> Tensor:
    """Of hints (B, 3 K, H, W) of several kinds the first that is given, (B, 3, H, W)."""
    which = told(seen).int().argmax(1)
    return torch.stack([row[CHANNELS * k : CHANNELS * (k + 1)] for row, k in zip(seen, which.tolist(), strict=True)])
