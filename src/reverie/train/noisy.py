"""Training of readers of noised points (`measure/noisy.py`): noised as a denoiser's data are, by its path and law of times."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.process.path import Path, time
from reverie.rng import Rng, digest
from reverie.train.loop import Key
from reverie.train.matching import contrast
from reverie.train.objective import TimeLaw, draw_times

Caption = Callable[[int, np.random.Generator], str]
LEVELS = (0.1, 0.5, 1.0, 2.0, 5.0)
"""sigma / alpha at which a finished reader is measured."""


class Noised:
    """Points x0 (N, ...) of a diffusion's space, and how they are noised."""

    def __init__(self, data: Tensor, held: Tensor, path: Path, times: TimeLaw) -> None:
        self.data, self.held, self.path, self.times = data, held, path, times

    def drawn(self, index: np.ndarray, key: Key) -> tuple[Tensor, Tensor]:
        """(x_t, t) of these rows at a step's own times and noise."""
        x0 = self.data[torch.from_numpy(index)].contiguous(memory_format=torch.channels_last)
        t = draw_times(self.times, self.path, len(index), key.torch("time"))
        rng = Rng((digest(key.seed, "noise", key.step),), dtype=x0.dtype, whole=True)
        return self.path.mix(x0, self.path.noise(x0.shape, rng), t), t

    def fixed(self, t: Tensor) -> Tensor:
        """x_t of all that is held out, t () or (N,), with noise that is always the same."""
        rng = Rng(tuple(digest("validation", k) for k in range(len(self.held))), dtype=self.held.dtype)
        return self.path.mix(self.held, self.path.noise(self.held.shape, rng), t)

    def spread(self) -> Tensor:
        """Times of what is held out, (N,), spread evenly over their law, and not in the data's order."""
        u = (torch.arange(len(self.held), dtype=torch.float64) * 0.6180339887 + 0.5) % 1
        return time(self.times(self.path, u))

    def levels(self) -> dict[str, Tensor]:
        """The times of LEVELS."""
        return {f"{level:g}": self.path.t_of_lam(-np.log(level)) for level in LEVELS}


class NoisyReading:
    """Trains a classifier: cross-entropy. targets (N,), held_targets (H,) int64."""

    def __init__(self, reader: Any, noised: Noised, targets: np.ndarray, held_targets: np.ndarray) -> None:
        self.module: nn.Module = reader
        self.reader, self.noised, self.size = reader, noised, len(targets)
        self.targets, self.held_targets = torch.from_numpy(targets), torch.from_numpy(held_targets)

    def loss(self, index: np.ndarray, key: Key) -> Tensor:
        x, t = self.noised.drawn(index, key)
        return -self.reader.log_prob(x, t, self.noised.path, self.targets[torch.from_numpy(index)])

    @torch.no_grad()
    def validate(self) -> float:
        t = self.noised.spread()
        return -float(self.reader.log_prob(self.noised.fixed(t), t, self.noised.path, self.held_targets).mean())

    @torch.no_grad()
    def finish(self) -> dict[str, Any]:
        """Share of held-out pictures that are read rightly, at each noise."""
        right = {}
        for name, t in self.noised.levels().items():
            read = self.reader.seen(self.noised.fixed(t), t, self.noised.path).argmax(1)
            right[name] = round(float((read == self.held_targets).double().mean()), 4)
        return {"accuracy": right}


class NoisyMatching:
    """Trains a scorer: each point with its own caption against those of the batch, and each caption likewise."""

    def __init__(self, scorer: Any, noised: Noised, caption: Caption, held_caption: Caption) -> None:
        self.module: nn.Module = scorer
        self.scorer, self.noised, self.caption, self.size = scorer, noised, caption, len(noised.data)
        self.held = [held_caption(k, np.random.default_rng(digest("validation", k))) for k in range(len(noised.held))]

    def loss(self, index: np.ndarray, key: Key) -> Tensor:
        rng = key.numpy("caption")
        said = [self.caption(int(i), rng) for i in index]
        x, t = self.noised.drawn(index, key)
        same = torch.tensor([[a == b for a in said] for b in said])
        return contrast(self.scorer.see(x, t, self.noised.path), self.scorer.wanted(said), same, self.scorer.heat.exp())

    @torch.no_grad()
    def validate(self, batch: int = 64) -> float:
        """Mean loss of what is held out, in batches."""
        t, told = self.noised.spread(), self.scorer.wanted(self.held)
        seen = self.scorer.see(self.noised.fixed(t), t, self.noised.path)
        each = [
            contrast(u, v, torch.eye(len(u), dtype=torch.bool), self.scorer.heat.exp())
            for u, v in zip(seen.split(batch), told.split(batch), strict=True)
        ]
        return float(torch.cat(each).mean())

    @torch.no_grad()
    def finish(self, among: int = 64) -> dict[str, Any]:
        """Share of held-out points whose own caption scores highest among 64, at each noise."""
        told, right = self.scorer.wanted(self.held).split(among), {}
        for name, t in self.noised.levels().items():
            seen = self.scorer.see(self.noised.fixed(t), t, self.noised.path).split(among)
            hits = [(F.linear(u, v).argmax(1) == torch.arange(len(u))).double() for u, v in zip(seen, told, strict=True)]
            right[name] = round(float(torch.cat(hits).mean()), 4)
        return {"retrieval": {"among": among, **right}}
