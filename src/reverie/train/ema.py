"""Averages of the weights over the run, with a length that can be chosen afterwards.

A power-function average (arXiv 2312.02696, section 3) weighs step tau of t by (tau / t)^gamma:

    beta_t = (1 - 1/t)^(gamma + 1),    average_t = beta_t average_(t-1) + (1 - beta_t) weights_t                    (1)

Its relative width (standard deviation over t) is s = sqrt((g + 1) / ((g + 2)^2 (g + 3))). Two such averages stored at a few
moments span the space of profiles well enough that any other width is a least-squares combination of them (its algorithm 3).
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn


def power_of(width: float) -> float:
    """gamma of a relative width in (0, 0.28): the real root of its cubic (arXiv 2312.02696, algorithm 2)."""
    if not 0 < width < 0.28:
        raise ValueError(f"EMA width is {width}; it lies between 0 and 0.28 of the run")
    roots = np.roots([1, 7, 16 - width**-2, 12 - width**-2])
    return float(roots.real.max())


class PowerEma:
    """One average per width of all floating-point parameters and buffers of a module."""

    def __init__(self, module: nn.Module, widths: Sequence[float] = (0.05, 0.10)) -> None:
        self.widths = tuple(widths)
        self.averages = [{k: v.detach().clone() for k, v in module.state_dict().items()} for _ in self.widths]

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Eq. (1) after step 1, 2, ..."""
        now = module.state_dict()
        for width, average in zip(self.widths, self.averages, strict=True):
            rest = 1 - (1 - 1 / step) ** (power_of(width) + 1)
            kept = [k for k, v in now.items() if v.is_floating_point()]
            torch._foreach_lerp_([average[k] for k in kept], [now[k].to(average[k].dtype) for k in kept], rest)

    def state(self) -> dict[str, Tensor]:
        return {f"ema.{w}.{k}": v for w, average in zip(self.widths, self.averages, strict=True) for k, v in average.items()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        for width, average in zip(self.widths, self.averages, strict=True):
            for k, v in average.items():
                v.copy_(tensors[f"ema.{width}.{k}"])


def _overlap(t_a: np.ndarray, g_a: np.ndarray, t_b: np.ndarray, g_b: np.ndarray) -> np.ndarray:
    """Inner products of two families of power profiles (closed form of int p_a p_b)."""
    t_a, g_a, t_b, g_b = t_a[:, None], g_a[:, None], t_b[None], g_b[None]
    low, power = np.minimum(t_a, t_b), np.where(t_a < t_b, g_b, g_a)
    ratio = np.exp(power * (np.log(low) - np.log(np.maximum(t_a, t_b))))
    return (g_a + 1) * (g_b + 1) * ratio / ((g_a + g_b + 1) * np.maximum(t_a, t_b))


def weights_for(moments: Iterable[tuple[float, float]], width: float, at: float) -> np.ndarray:
    """Factors of stored averages (step, width) whose sum is closest to the average of `width` at step `at`."""
    t = np.array([m[0] for m in moments], float)
    g = np.array([power_of(m[1]) for m in moments])
    goal_t, goal_g = np.array([float(at)]), np.array([power_of(width)])
    return np.linalg.lstsq(_overlap(t, g, t, g), _overlap(t, g, goal_t, goal_g)[:, 0], rcond=None)[0]


def split(step: int, tensors: Mapping[str, Tensor]) -> list[tuple[float, float, dict[str, Tensor]]]:
    """A stored `PowerEma.state()` as entries for `combine`: (step, width, weights)."""
    widths = sorted({k[4:].partition(".")[2].partition(".")[0] for k in tensors if k.startswith("ema.0.")})
    heads = [(float(f"0.{w}"), f"ema.0.{w}.") for w in widths]
    return [(step, width, {k[len(head) :]: v for k, v in tensors.items() if k.startswith(head)}) for width, head in heads]


def combine(stored: Sequence[tuple[float, float, Mapping[str, Tensor]]], width: float) -> dict[str, Tensor]:
    """The average of another width, from snapshots (step, width, weights); step of the last one is its end."""
    factors = weights_for([(s, w) for s, w, _ in stored], width, stored[-1][0])
    out = {}
    for k, v in stored[-1][2].items():
        total = sum(float(f) * weights[k].double() for f, (_, _, weights) in zip(factors, stored, strict=True))
        out[k] = total.to(v.dtype) if v.is_floating_point() else v  # type: ignore[union-attr]
    return out
