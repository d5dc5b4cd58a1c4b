"""What can be trained: a denoiser with its encoder, the enlarger of a cascade, and a reader of pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reverie.codec import Shrunk
from reverie.denoiser import Cond, Denoiser
from reverie.errors import UserError
from reverie.nets.precision import inside
from reverie.process.path import time
from reverie.rng import Rng, digest
from reverie.train.loop import Key
from reverie.train.objective import Objective, TimeLaw, denoising, draw_times

Prompt = Callable[[int, np.random.Generator], Any]
View = Callable[[np.ndarray, np.random.Generator], Tensor]
"""Numbers of examples -> what the net is shown of each, `Cond.concat`."""


class Diffusion:
    """Trains a denoiser (and the encoder that conditions it) on points x0 (N, ...) of the diffusion's space.

    prompt(i, rng) is what example i is called; it is dropped with probability `drop`, of all or (N,) of each, for classifier-free
    guidance.
    rows: the examples of one round, some of them more than once; none = each of them once. view(i, rng) is what the net sees of
    examples i beside x_t, held_view of those that are held out.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        data: Tensor,
        held: Tensor,
        *,
        times: TimeLaw,
        objective: Objective = denoising,
        encoder: Any = None,
        prompt: Prompt | None = None,
        held_prompt: Prompt | None = None,
        drop: float | np.ndarray = 0.1,
        rows: np.ndarray | None = None,
        view: View | None = None,
        held_view: View | None = None,
    ) -> None:
        if not (np.min(drop) >= 0 and np.max(drop) <= 1):
            raise UserError(f"objective: drop is {drop}; it is a share, at least 0 and at most 1")
        self.module = nn.ModuleDict({"denoiser": denoiser} | ({} if encoder is None else {"encoder": encoder}))
        self.denoiser, self.encoder, self.data, self.held = denoiser, encoder, data, held
        self.times, self.objective, self.prompt, self.held_prompt, self.drop = times, objective, prompt, held_prompt, drop
        self.view, self.held_view = view, held_view
        self.rows = np.arange(len(data)) if rows is None else rows
        self.size = len(self.rows)

    def loss(self, index: np.ndarray, key: Key) -> Tensor:
        x0, n, cond = self.given(self.rows[index], key)
        t = draw_times(self.times, self.denoiser.path, len(index), key.torch("time"))
        return self.objective(self.denoiser, x0, t, n, cond)

    def given(self, index: np.ndarray, key: Key) -> tuple[Tensor, Tensor, Cond | None]:
        """Clean points, their noise, and what is said of them."""
        x0 = self.points(index, key)
        if x0.ndim == 4:  # convolutions on CPU run faster with the channels innermost
            x0 = x0.contiguous(memory_format=torch.channels_last)
        n = self._noise(x0, key)
        captions = key.numpy("caption")
        drop = self.drop if isinstance(self.drop, float | int) else self.drop[index]
        dropped = captions.random(len(index)) < drop
        said = (
            None
            if self.prompt is None
            else ["" if d else self.prompt(int(i), captions) for i, d in zip(index, dropped, strict=True)]
        )
        seen = None if self.view is None else self.view(index, key.numpy("seen"))
        return x0, n, self._cond(said, seen)

    def points(self, index: np.ndarray, key: Key) -> Tensor:
        """Clean points x0 of these examples, as a step sees them."""
        return self.data[torch.from_numpy(index)]

    def _noise(self, x0: Tensor, key: Key) -> Tensor:
        rng = Rng((digest(key.seed, "noise", key.step),), dtype=x0.dtype, device=x0.device, whole=True)
        return self.denoiser.path.noise(x0.shape, rng)

    def _cond(self, said: Sequence[Any] | None, seen: Tensor | None) -> Cond | None:
        cond = None if said is None or self.encoder is None else self.encoder.prompts(said)
        return cond if seen is None else replace(cond or Cond(), concat=seen)

    @torch.no_grad()
    def validate(self, batch: int = 64) -> float:
        """The mean loss of the held-out data at fixed noise, times and captions."""
        total, held = 0.0, self.held
        u = (torch.arange(len(held), dtype=torch.float64) * 0.6180339887 + 0.5) % 1  # evenly spread, not in the data's order
        t = time(self.times(self.denoiser.path, u))
        for first in range(0, len(held), batch):
            rows = range(first, min(first + batch, len(held)))
            rng = Rng(tuple(digest("validation", k) for k in rows), dtype=held.dtype, device=held.device)
            n = self.denoiser.path.noise(held[rows.start : rows.stop].shape, rng)
            prompt = self.held_prompt
            said = None if prompt is None else [prompt(k, np.random.default_rng(digest("validation", k))) for k in rows]
            x0 = held[rows.start : rows.stop]
            see, seed = self.held_view, digest("seen", first)
            seen = None if see is None else see(np.arange(rows.start, rows.stop), np.random.default_rng(seed))
            cond, times = self._cond(said, seen), t[rows.start : rows.stop]
            total += float(self.measured(np.arange(rows.start, rows.stop), x0, times, n, cond).sum())
        return total / len(held)

    def measured(self, rows: np.ndarray, x0: Tensor, t: Tensor, n: Tensor, cond: Cond | None) -> Tensor:
        """The loss per sample of these rows of what is held out."""
        return self.objective(self.denoiser, x0, t, n, cond)


class Enlarging:
    """Trains the decoder of `Shrunk` on pictures uint8 (N, C, H, W): |x - x'| and its gradients.

    The small picture gets noise of deviation up to `noise`, as diffusion leaves some (conditioning augmentation, arXiv 2106.15282).
    """

    def __init__(self, codec: Shrunk, pictures: np.ndarray, held: np.ndarray, *, noise: float = 0.1, edges: float = 1.0) -> None:
        self.module, self.pictures, self.held, self.noise, self.edges = codec, pictures, held, noise, edges
        self.size = len(pictures)

    def loss(self, index: np.ndarray, key: Key) -> Tensor:
        return self.distance(to_signal(self.pictures[index]), key.torch("noise"))

    def distance(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Per sample (B,)."""
        x = x.contiguous(memory_format=torch.channels_last)
        z = self.module.encode(x)
        deviation = self.noise * torch.rand(len(x), 1, 1, 1, generator=generator)
        gap = self.module.decode(z + deviation * torch.randn(z.shape, generator=generator)) - x
        across = (gap[..., 1:] - gap[..., :-1]).abs().flatten(1).mean(1)
        down = (gap[..., 1:, :] - gap[..., :-1, :]).abs().flatten(1).mean(1)
        return gap.abs().flatten(1).mean(1) + self.edges * (across + down) / 2

    @torch.no_grad()
    def validate(self, batch: int = 64) -> float:
        """Mean distance of the held-out pictures to their enlargements, with fixed noise."""
        total = 0.0
        for first in range(0, len(self.held), batch):
            generator = Key(0, first).torch("validation")
            total += float(self.distance(to_signal(self.held[first : first + batch]), generator).sum())
        return total / len(self.held)


class Reading:
    """Trains a classifier `x -> (features, {head: logits})` on pictures uint8 (N, C, H, W).

    targets: {head: (N,) int64}, -1 where a picture does not have that attribute: it then says nothing to that head.
    Pictures are moved by up to `shift` pixels, softened towards half their size with chance `soft`, and given noise of deviation
    up to `noise`, so that the slight faults of generated pictures are not what is read.
    """

    def __init__(
        self,
        module: nn.Module,
        pictures: np.ndarray,
        targets: Mapping[str, np.ndarray],
        held: np.ndarray,
        held_targets: Mapping[str, np.ndarray],
        *,
        shift: int = 2,
        soft: float = 0.5,
        noise: float = 0.1,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.module, self.pictures, self.targets, self.held, self.held_targets = module, pictures, targets, held, held_targets
        self.shift, self.soft, self.noise, self.autocast, self.size = shift, soft, noise, autocast, len(pictures)

    def loss(self, index: np.ndarray, key: Key) -> Tensor:
        x = self.worn(to_signal(self.pictures[index]), key.torch("wear"))
        return self.misread(x, {head: target[index] for head, target in self.targets.items()})

    def worn(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """x (B, C, H, W) moved, softened and with noise."""
        b, _, height, width = x.shape
        by = torch.randint(0, 2 * self.shift + 1, (2, b, 1), generator=generator)
        wide = nn.functional.pad(x, (self.shift,) * 4, mode="replicate")
        rows, columns = torch.arange(height) + by[0], torch.arange(width) + by[1]
        x = wide[torch.arange(b)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        blurred = nn.functional.interpolate(nn.functional.avg_pool2d(x, 2), (height, width), mode="bilinear")
        much = torch.rand(3, b, 1, 1, 1, generator=generator)
        x = x + (much[0] < self.soft) * much[1] * (blurred - x)
        return x + self.noise * much[2] * torch.randn(x.shape, generator=generator)

    def misread(self, x: Tensor, targets: Mapping[str, np.ndarray]) -> Tensor:
        """Cross-entropy per sample (B,), summed over the heads."""
        x = x.contiguous(memory_format=torch.channels_last)
        with inside(self.autocast, x.device):
            logits = self.module(x)[1]
        entropy = nn.functional.cross_entropy
        each = [entropy(logits[h].float(), torch.from_numpy(t), ignore_index=-1, reduction="none") for h, t in targets.items()]
        return torch.stack(each).sum(0)

    @torch.no_grad()
    def validate(self, batch: int = 100) -> float:
        """Mean cross-entropy of the held-out pictures, as they are."""
        total = 0.0
        for i in range(0, len(self.held), batch):
            some = {head: target[i : i + batch] for head, target in self.held_targets.items()}
            total += float(self.misread(to_signal(self.held[i : i + batch]), some).sum())
        return total / len(self.held)


def to_signal(pictures: np.ndarray) -> Tensor:
    """uint8 (B, C, H, W) -> float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).float() / 127.5 - 1


def to_pictures(x: Tensor) -> np.ndarray:
    """Float (B, C, H, W) in [-1, 1] -> uint8."""
    out: np.ndarray = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
    return out
