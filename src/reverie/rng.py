"""Randomness as an argument: per-sample, counter-based streams that mean the same everywhere.

A draw is a pure function of (seed of the sample, purpose, step). It is made on the CPU, with Philox 4x64-10 (Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011) and the Box-Muller transform in float64, then rounded: so the noise of
an image does not change with its batch, its place in the batch, the device, or the library version that drew it.

Asking twice gives the same numbers twice; `fold` names a fresh stream.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
    whole: bool = False  # one stream for the whole batch: quicker, for training, where no sample is ever drawn alone

    @classmethod
    def of(cls, seed: int | Sequence[int], count: int | None = None, **kw: object) -> "Rng":
        """`Rng.of(7, 4)` has seeds 7, 8, 9, 10: image k of a call has seed + k. A sequence is taken as it is."""
        seeds = tuple(seed) if isinstance(seed, Sequence) else tuple(range(seed, seed + (1 if count is None else count)))
        return cls(seeds, **kw)  # type: ignore[arg-type]

    def fold(self, purpose: str, step: int = 0) -> "Rng":
        """The stream for another purpose or step."""
        return replace(self, path=(*self.path, f"{purpose}:{step}"))

    def step(self, index: int, t: Any, s: Any) -> "Rng":
        """The stream of a sampler's step from t to s; `Brownian` looks at the times instead of the index."""
        return self.fold("step", index)

    def _rows(self, shape: Sequence[int], draw: Callable[[int, int], np.ndarray]) -> Tensor:
        """draw(stream, count) for each sample, or once for all."""
        n = int(np.prod(shape[1:]))
        if self.whole:
            return torch.from_numpy(draw(0, shape[0] * n).reshape(tuple(shape))).to(self.dtype).to(self.device)
        if len(self.seeds) != shape[0]:
            raise ValueError(f"{len(self.seeds)} seeds for a batch of {shape[0]}: give one seed per sample")
        rows = np.stack([draw(k, n) for k in range(shape[0])]).reshape(tuple(shape))
        return torch.from_numpy(rows).to(self.dtype).to(self.device)

    def _bits(self, k: int, n: int) -> np.ndarray:
        raw = np.random.Philox(key=digest(self.seeds[k], *self.path)).random_raw(n)
        return ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53  # 53 bits, strictly inside (0, 1)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """(B, ...) uniform on (0, 1)."""
        return self._rows(shape, self._bits)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """(B, ...) standard normal."""

        def row(k: int, n: int) -> np.ndarray:
            half = (n + 1) // 2
            u = self._bits(k, 2 * half)
            return np.concatenate(_box_muller(u[:half], u[half:]))[:n]

        return self._rows(shape, row)

    def chi2(self, dimensions: float, shape: Sequence[int]) -> Tensor:
        """(B, ...) chi-squared with `dimensions` degrees of freedom, any number above 0."""
        if not dimensions > 0:
            raise ValueError(f"chi-squared has more than 0 degrees of freedom, not {dimensions}")
        return self._rows(shape, lambda k, n: 2 * self._gamma(dimensions / 2, k, n))

    def _gamma(self, a: float, k: int, n: int) -> np.ndarray:
        """Gamma(a, 1) by rejection (Marsaglia and Tsang, 2000): the draws of round r that fail are drawn again in round r + 1."""
        if a < 1:
            return self.fold("gamma", 1)._gamma(a + 1, k, n) * self._bits(k, n) ** (1 / a)
        d = a - 1 / 3
        out, left, trial = np.empty(n), np.arange(n), 0
        while len(left):
            u = self.fold("trial", trial)._bits(k, 3 * len(left)).reshape(3, -1)
            z = _box_muller(u[0], u[1])[0]
            v = np.maximum(1 + z / np.sqrt(9 * d), 0) ** 3
            with np.errstate(divide="ignore"):  # ln 0 = -inf is refused, as it should be
                good = np.log(u[2]) < z**2 / 2 + d * (1 - v + np.log(v))
            out[left[good]] = d * v[good]
            left, trial = left[~good], trial + 1
        return out

    def __getitem__(self, k: slice) -> "Rng":
        """The streams of a part of the batch."""
        return replace(self, seeds=self.seeds[k])

    def take(self, rows: Sequence[int]) -> "Rng":
        """The streams of some samples."""
        return replace(self, seeds=tuple(self.seeds[k] for k in rows))


def _box_muller(u: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two independent standard normals from two uniforms."""
    radius, angle = np.sqrt(-2 * np.log(u)), 2 * np.pi * w
    return radius * np.cos(angle), radius * np.sin(angle)
