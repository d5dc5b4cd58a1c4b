"""Representation alignment (Yu et al., arXiv:2410.06940): a hidden layer learns to see what a recognition network sees.

    L = denoising + w (1 - mean over places of cos(h(z), f)),                                             (1)

z being the rows that leave block k of the transformer, f the features of the clean picture at the same places, and h a small net of
its own, which is of no use after training. What the network sees of every picture is computed once; f has its mean over the data
taken off, which all pictures share.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.errors import UserError
from reverie.nets.precision import inside
from reverie.train.jobs import Diffusion
from reverie.train.loop import Key

Places = Callable[[np.ndarray, int], Tensor]
"""Pictures uint8 (N, C, H, W), places each way -> what is seen there (N, places^2, F)."""
HIDDEN = 512


class Aligned(Diffusion):
    """Diffusion by a transformer with `blocks`, aligned with seen (N, L, F) after the block of this number, eq. (1)."""

    def __init__(self, *given: Any, seen: Tensor, block: int, weight: float, **named: Any) -> None:
        super().__init__(*given, **named)
        net: Any = self.denoiser.net
        if not 0 < block <= len(net.blocks):
            raise UserError(f"alignment: the net has blocks 1 to {len(net.blocks)}, and no block {block}")
        self.seen, self.weight, self.block = seen, weight, net.blocks[block - 1]
        self.project = nn.Sequential(nn.Linear(net.config.width, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, seen.shape[2]))
        self.module["project"] = self.project

    def loss(self, index: np.ndarray, key: Key) -> Tensor:
        caught: list[Tensor] = []
        hook = self.block.register_forward_hook(lambda module, inputs, out: caught.append(out))
        try:
            loss = super().loss(index, key)
        finally:
            hook.remove()
        return loss + self.weight * self.unlike(caught[0], self.seen[torch.from_numpy(self.rows[index])])

    def unlike(self, z: Tensor, seen: Tensor) -> Tensor:
        """1 - mean cosine (B,)."""
        with inside(self.denoiser.autocast, z.device):
            h = self.project(z)
        return 1 - F.cosine_similarity(h.float(), seen.float(), dim=2).mean(1)
