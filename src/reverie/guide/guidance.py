"""Guidance as one line: u + w (c - u), with another choice of u, w, and of what is done to the result.

- classifier-free guidance: u is the same model under another condition (arXiv 2207.12598);
- autoguidance: u is a worse model under the same condition (arXiv 2406.02507);
- interval: w is a function of t (arXiv 2404.07724); rescale and thresholding act on the result (2305.08891, 2205.11487).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from reverie.denoiser import Cond, Model
from reverie.errors import UserError
from reverie.process.path import Path, like, time

Scale = float | Callable[[Tensor], Tensor]
Finish = Callable[[Tensor, Tensor], Tensor]  # (guided, conditional) -> x0


@dataclass(frozen=True)
class Guided:
    """u + w (c - u), c = model(x, t, cond), u = other(x, t, negative or cond)."""

    model: Model
    other: Model
    scale: Scale
    negative: Cond | None = None
    finish: tuple[Finish, ...] = ()

    @property
    def path(self) -> Path:
        return self.model.path

    def __call__(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        w = self._weight(t)
        return self.model(x, t, cond) if w is None else self._towards(w, *self.both(x, t, cond))

    def with_variance(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> tuple[Tensor, Tensor]:
        """The guided mean, and the variance that the model learnt under the condition itself."""
        w, own = self._weight(t), cast(Any, self.model)
        if w is None:
            c, variance = own.with_variance(x, t, cond)
            return c, variance
        if not self._shared(cond):
            c, variance = own.with_variance(x, t, cond)
            return self._towards(w, c, self.other(x, t, self._against(cond))), variance
        means, variances = own.with_variance(*self._twice(x, t, cond))
        return self._towards(w, *means.chunk(2)), variances.chunk(2)[0]

    def both(self, x: Tensor, t: Tensor, cond: Cond | None) -> tuple[Tensor, Tensor]:
        """c and u: in one batch where they are the same model."""
        if not self._shared(cond):
            return self.model(x, t, cond), self.other(x, t, self._against(cond))
        c, u = self.model(*self._twice(x, t, cond)).chunk(2)
        return c, u

    def _weight(self, t: Tensor) -> Tensor | None:
        """w (), or one per sample; None where it is 1 everywhere and u is not needed."""
        w = self.scale(time(t)) if callable(self.scale) else torch.tensor(float(self.scale), dtype=torch.float64)
        return None if bool((w == 1).all()) else w

    def _towards(self, w: Tensor, c: Tensor, u: Tensor) -> Tensor:
        out = u + like(w, c) * (c - u)
        for change in self.finish:
            out = change(out, c)
        return out

    def _against(self, cond: Cond | None) -> Cond | None:
        return cond if self.negative is None else self.negative

    def _shared(self, cond: Cond | None) -> bool:
        return self.other is self.model and cond is not None and self._against(cond) is not None

    def _twice(self, x: Tensor, t: Tensor, cond: Cond | None) -> tuple[Tensor, Tensor, Cond]:
        conds = [c for c in (cond, self._against(cond)) if c is not None]
        return torch.cat([x, x]), time(t).expand(x.shape[0]).repeat(2), Cond.cat(conds)


def cfg(model: Model, scale: Scale, negative: Cond | None, *finish: Finish) -> Model:
    """Classifier-free guidance; `negative` is the empty or negative condition, one row per sample. scale 1: `model` itself."""
    if negative is None:
        raise UserError("classifier-free guidance needs a negative condition: encode the empty prompt, or use scale 1")
    return model if scale == 1 else Guided(model, model, scale, negative, finish)


def autoguide(model: Model, weak: Model, scale: Scale, *finish: Finish) -> Model:
    """Guidance by a worse version of the model itself (smaller, or trained less) under the same condition."""
    return Guided(model, weak, scale, None, finish)


def interval(scale: float, low: float, high: float) -> Scale:
    """w = scale for low <= t <= high, and 1 outside, where the second evaluation is saved."""
    if not 0 <= low <= high <= 1:
        raise UserError(f"guidance interval {low}..{high}: give 0 <= low <= high <= 1, with t = 1 noise")
    return lambda t: torch.where((t >= low) & (t <= high), float(scale), 1.0).to(torch.float64)


def rescale(phi: float = 0.7) -> Finish:
    """Moves each sample's standard deviation towards the conditional one by phi (arXiv 2305.08891, eq. 15-16)."""

    def finish(guided: Tensor, conditional: Tensor) -> Tensor:
        axes = tuple(range(1, guided.ndim))
        ratio = conditional.std(axes, keepdim=True) / guided.std(axes, keepdim=True)
        return guided * (phi * ratio + 1 - phi)

    return finish


def threshold(percentile: float = 0.995, limit: float = 1.0) -> Finish:
    """Dynamic thresholding of data in [-limit, limit] (arXiv 2205.11487, section 2.3)."""

    def finish(guided: Tensor, conditional: Tensor) -> Tensor:
        reach = like(_quantile(guided.flatten(1).abs().float(), percentile).clamp(min=limit), guided)
        return guided.clamp(-reach, reach) / reach * limit

    return finish


def _quantile(rows: Tensor, share: float) -> Tensor:
    """The quantile of each row (B, N), linear between neighbours, for any N: torch.quantile refuses more than 2^24."""
    low, part = divmod(share * (rows.shape[1] - 1), 1)
    least = rows.kthvalue(int(low) + 1, 1).values
    return least if not part else least.lerp(rows.kthvalue(int(low) + 2, 1).values, part)
