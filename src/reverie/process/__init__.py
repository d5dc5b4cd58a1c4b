"""Processes: paths, schedules, noise laws, rules and time grids. No nets."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from reverie.process.path import Path as Path
from reverie.process.path import like as like
from reverie.process.path import time as time
from reverie.rng import Rng


class Process(Protocol):
    """What can be drawn: x_1, x_t given x_0, and x_s given x_t and a clean estimate (s < t)."""

    def prior(self, shape: Sequence[int], *, rng: Rng) -> Tensor: ...

    def corrupt(self, x0: Tensor, t: Tensor | float, *, rng: Rng) -> Tensor: ...

    def bridge(
        self, x: Tensor, x0: Tensor, t: Tensor | float, s: Tensor | float, *, eta: float = 0.0, rng: Rng | None = None
    ) -> Tensor: ...
