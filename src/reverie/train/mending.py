"""Training of nets that see a damaged picture and give it back (`data/damages.py`); the damage is drawn anew for each step."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.denoiser import Cond
from reverie.process.grids import karras
from reverie.rng import Rng, digest
from reverie.solve import Exponential, sample
from reverie.train.jobs import Diffusion


class Mending(Diffusion):
    """A `Diffusion` with something to show: held-out pictures, damaged, mended, and as they were. codec: of its space."""

    STEPS, COUNT = 12, 8

    def __init__(self, *given: Any, codec: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.codec = codec

    @torch.no_grad()
    def shown(self) -> Tensor:
        """(24, C, H, W): a row of each."""
        count = min(self.COUNT, len(self.held))
        assert self.held_view is not None
        seen = self.held_view(np.arange(count), np.random.default_rng(digest("shown")))
        whole, path, rng = self.held[:count], self.denoiser.path, Rng.of(0, count)
        x = path.prior(whole.shape, rng=rng, spread=1.0)
        made = sample(self.denoiser, x, karras(smallest=0.02)(path, self.STEPS), Exponential(2), cond=Cond(concat=seen))
        return torch.cat([self.codec.decode(z) for z in (seen[:, : whole.shape[1]], made, whole)])
