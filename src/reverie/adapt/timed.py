"""Changes of weights that hold on a part of the way alone.

    W'(t) = W + sum of w_k D_k(W) over the changes that act at t                                                    (1)

Each sum is made when it is first needed and kept until another is; it stands in W's place while the net is asked, and W itself, bit
for bit, before and after.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from reverie.adapt.adapted import Adapted
from reverie.adapt.lora import Changed, Lora
from reverie.adapt.when import When
from reverie.denoiser import Cond, Denoiser
from reverie.process.path import time


class Timed(Adapted):
    """The model with changes of its weights (by their names in `own`), each when its `When` says."""

    def __init__(self, model: Denoiser, own: Mapping[str, Tensor], loras: Sequence[tuple[Lora, When]]) -> None:
        super().__init__(model)
        self.own, self.loras = dict(own), tuple(loras)
        self.made: tuple[tuple[bool, ...], dict[str, Tensor]] = ((), {})

    def raw(self, x: Tensor, t: Tensor | float, cond: Cond | None = None) -> Tensor:
        t = time(t).expand(x.shape[0])
        acting = torch.stack([when.acts(t) for _, when in self.loras], 1)  # (B, K)
        sets, which = acting.unique(dim=0, return_inverse=True)
        if len(sets) == 1:
            return self._asked(tuple(sets[0].tolist()), x, t, cond)
        out = torch.empty(0)
        for k, each in enumerate(sets):
            rows = which == k
            here = rows.to(x.device)
            said = self._asked(tuple(each.tolist()), x[here], t[rows.to(t.device)], None if cond is None else _rows(cond, rows))
            out = x.new_empty(len(x), *said.shape[1:]) if not out.numel() else out
            out[here] = said
        return out

    def _asked(self, acting: tuple[bool, ...], x: Tensor, t: Tensor, cond: Cond | None) -> Tensor:
        """The model, with the weights of (1) in place of its own."""
        if not any(acting):
            return self.model.raw(x, t, cond)
        made = self._weights(acting)
        kept = {key: self.own[key].data for key in made}
        try:
            for key, value in made.items():
                self.own[key].data = value
            return self.model.raw(x, t, cond)
        finally:
            for key, value in kept.items():
                self.own[key].data = value

    def _weights(self, acting: tuple[bool, ...]) -> dict[str, Tensor]:
        """Those of (1) that differ from W."""
        if self.made[0] != acting:
            self.made = ((), {})  # which takes as much memory
            placed = Changed(self.own)
            placed.set([(lora, when.weight) for (lora, when), on in zip(self.loras, acting, strict=True) if on])
            made = {key: self.own[key].data for key in placed.kept}
            placed.set([])
            self.made = (acting, made)
        return self.made[1]


def _rows(cond: Cond, rows: Tensor) -> Cond:
    return cond.map(lambda v: v[rows.to(v.device)])


def split(lora: Lora, prefix: str) -> tuple[Lora, Lora]:
    """The changes of weights whose names begin so, and the others."""
    ours = [site.stack.keys[0].startswith(prefix) for site in lora.sites]
    one, other = ([site for site, own in zip(lora.sites, ours, strict=True) if own is side] for side in (True, False))
    return replace(lora, sites=one), replace(lora, sites=other)
