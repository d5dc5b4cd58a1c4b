"""Training of a control by what its pictures show: ControlNet++ (Li et al., arXiv:2404.07987).

Of a picture with light noise one evaluation gives a clean estimate, from which a differentiable D reads what the control was told:

    loss = denoising + weight d(D(x_0'), c),   x_0' = E[x_0 | x_t, c],   where sigma / alpha <= light                (1)

(its eq. 9, whose t <= 200 of 1000 is sigma / alpha <= 0.58 on the path of Stable Diffusion; weighted sums, and no further
evaluation). D stands for an extractor of `data/hints.py`, most of which have no gradient: each d below takes a made picture
(B, 3, H, W) and a hint (B, 3, H, W), both in [-1, 1], and gives (B,), 0 where they agree.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.card import remembers
from reverie.denoiser import Cond, Denoiser
from reverie.errors import UserError
from reverie.process.path import like, time
from reverie.train.steering import Steering

Reward = Callable[[Tensor, Tensor], Tensor]


def strength(x: Tensor) -> Tensor:
    """The largest gradient (Sobel) of the colours of a picture (B, C, H, W) in [-1, 1], lightly blurred first: (B, 1, H, W)."""
    blur = torch.tensor([0.25, 0.5, 0.25], dtype=x.dtype, device=x.device)
    slope = torch.tensor([-0.5, 0.0, 0.5], dtype=x.dtype, device=x.device)
    kernels = torch.stack([blur[:, None] * slope, slope[:, None] * blur])[:, None]
    rows = F.pad(x, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]
    soft = F.conv2d(rows, (blur[:, None] * blur)[None, None])
    both = F.conv2d(F.pad(soft, (1, 1, 1, 1), mode="replicate"), kernels)
    size = (both.square().sum(1) + 1e-8).sqrt()
    return size.view(x.shape).amax(1, keepdim=True)


@remembers
def soft_edges(level: float = 0.1, sharpness: float = 40.0) -> Reward:
    """For `edges`: e = sigmoid(sharpness (gradient - level)) is to be 1 within a pixel of each line, and 0 farther from all."""
    if not (0 < level < 1 and sharpness > 0):
        raise UserError(f"soft_edges: level is {level}, sharpness {sharpness}; 0 < level < 1 and sharpness > 0")

    def distance(made: Tensor, hint: Tensor) -> Tensor:
        line = (hint.amax(1, keepdim=True) > 0).to(made)
        found = torch.sigmoid(sharpness * (strength(made) - level))
        missed = line * (1 - F.max_pool2d(found, 3, 1, 1))
        clear = 1 - F.max_pool2d(line, 5, 1, 2)  # a gradient is two pixels wide
        return _share(missed, line) + _share(clear * found, clear)

    return distance


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return part.flatten(1).sum(1) / whole.flatten(1).sum(1).clamp_min(1)


@remembers
def squares(side: int = 8) -> Reward:
    """For `low`: the mean square distance of the means of side x side squares."""
    if side < 1:
        raise UserError(f"squares: side is {side}; it is at least 1")

    def distance(made: Tensor, hint: Tensor) -> Tensor:
        return (F.adaptive_avg_pool2d(made, side) - F.adaptive_avg_pool2d(hint, side)).square().flatten(1).mean(1)

    return distance


@remembers
def patches() -> Reward:
    """For `regions` and `palette`: the mean square distance of mean colours of patches, by area; a patch is what has one colour."""

    def one(made: Tensor, hint: Tensor) -> Tensor:
        colours, label, count = torch.unique(hint.flatten(1), dim=1, return_inverse=True, return_counts=True)
        mean = torch.zeros_like(colours).index_add(1, label, made.flatten(1)) / count
        return ((mean - colours).square() * count).sum() / (3 * count.sum())

    return lambda made, hint: torch.stack([one(m, h) for m, h in zip(made, hint, strict=True)])


REWARDS = (soft_edges, squares, patches)


class Rewarding(Steering):
    """`Steering` by eq. (1). reward: d. weight: of d, in the units of the denoising loss. light: the most noise sigma / alpha."""

    def __init__(self, *given: Any, reward: Reward, weight: float = 0.5, light: float = 0.6, **named: Any) -> None:
        if not (weight >= 0 and light > 0):
            raise UserError(f"reward: weight is {weight} and light {light}; weight is at least 0, and light more")
        super().__init__(*given, **named)
        self.reward, self.weight, self.light = reward, weight, light
        self.objective = self.rewarded

    def rewarded(self, model: Denoiser, x0: Tensor, t: Tensor, n: Tensor, cond: Cond | None = None) -> Tensor:
        """Eq. (1) per sample (B,)."""
        t = time(t)
        (a, b), (keep, take) = model.rule(model.path, t), model.solution(t)
        x = model.path.mix(x0, n, t)
        output = model.halves(x, t, cond)[0]
        loss = (output - like(a, x0) * x0 - like(b, x0) * n).square().flatten(1).mean(1)
        light = (-model.path.lam(t)).exp() <= self.light
        if cond is None or cond.hints is None or not bool(light.any()):
            return loss
        clean = (like(keep, x) * x + like(take, x) * output)[light]
        found = self.reward(self.codec.decode(clean), cond.hints[0][light])
        return loss.index_add(0, light.nonzero()[:, 0].to(loss.device), self.weight * found.to(loss))

    @torch.no_grad()
    def finish(self) -> dict[str, float]:
        """What d is of held-out pictures with light noise: {"reward": its mean}."""
        return {"reward": self.agreement()}

    @torch.no_grad()
    def agreement(self, count: int = 64) -> float:
        """The mean d of the clean estimates of held-out pictures at the noise `light`."""
        rows = np.arange(min(count, len(self.held)))
        assert self.held_view is not None
        seen, path = self.held_view(rows, np.random.default_rng(0)), self.denoiser.path
        x0 = self.held[: len(rows)]
        n = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
        t = path.t_of_lam(-torch.tensor(self.light, dtype=torch.float64).log()).expand(len(rows))
        said = None if self.held_prompt is None else [self.held_prompt(int(k), np.random.default_rng(int(k))) for k in rows]
        clean = self.denoiser(path.mix(x0, n, t), t, self._cond(said, seen))
        return float(self.reward(self.codec.decode(clean), seen).mean())
