"""Randomness as an argument: per-sample, counter-based streams that mean the same everywhere.

A draw is a pure function of (seed of the sample, purpose, step). It is made on the CPU, with Philox 4x64-10 (Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011) and the Box-Muller transform in float64, then rounded: so the noise of
an image does not change with its batch, its place in the batch, the device, or the library version that drew it.

Asking twice gives the same numbers twice; `fold` names a fresh stream.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


def digest(*words: object) -> int:
    """128 bits that depend on every word and on their order; the key of a stream."""
    text = "\x1f".join(map(str, words)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")


@dataclass(frozen=True)
class Rng:
    """One stream per sample of a batch.

    seeds: one integer per sample. path: the purposes and steps folded in so far.
    """

    seeds: tuple[int, ...]
    path: tuple[str, ...] = ()
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"

    @classmethod
    def of(cls, seed: int | Sequence[int], count: int | None = None, **kw: object) -> "Rng":
        """`Rng.of(7, 4)` has seeds 7, 8, 9, 10: image k of a call has seed + k. A sequence is taken as it is."""
        seeds = tuple(seed) if isinstance(seed, Sequence) else tuple(range(seed, seed + (1 if count is None else count)))
        return cls(seeds, **kw)  # type: ignore[arg-type]

    def fold(self, purpose: str, step: int = 0) -> "Rng":
        """The stream for another purpose or step."""
        return replace(self, path=(*self.path, f"{purpose}:{step}"))

    def generator(self, k: int) -> np.random.Generator:
        """Sample k's stream as a numpy generator, for laws that have no closed transform."""
        return np.random.Generator(np.random.Philox(key=digest(self.seeds[k], *self.path)))

    def _bits(self, k: int, n: int) -> np.ndarray:
        raw = np.random.Philox(key=digest(self.seeds[k], *self.path)).random_raw(n)
        return ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53  # 53 bits, strictly inside (0, 1)

    def _stack(self, rows: list[np.ndarray], shape: Sequence[int]) -> Tensor:
        if len(rows) != shape[0]:
            raise ValueError(f"{len(rows)} seeds for a batch of {shape[0]}: give one seed per sample")
        return torch.from_numpy(np.stack(rows).reshape(tuple(shape))).to(self.dtype).to(self.device)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """(B, ...) uniform on (0, 1)."""
        n = int(np.prod(shape[1:]))
        return self._stack([self._bits(k, n) for k in range(len(self.seeds))], shape)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """(B, ...) standard normal."""
        n = int(np.prod(shape[1:]))
        half = (n + 1) // 2

        def row(k: int) -> np.ndarray:
            u = self._bits(k, 2 * half)
            radius, angle = np.sqrt(-2 * np.log(u[:half])), 2 * np.pi * u[half:]
            return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:n]

        return self._stack([row(k) for k in range(len(self.seeds))], shape)

    def __getitem__(self, k: slice) -> "Rng":
        """The streams of a part of the batch."""
        return replace(self, seeds=self.seeds[k])
