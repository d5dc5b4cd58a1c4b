"""When and how strongly an adapter acts."""

import math
from dataclasses import dataclass
from numbers import Real

from torch import Tensor

from reverie.errors import UserError, number


@dataclass(frozen=True, kw_only=True)
class When:
    """weight: what it says is multiplied by it; 0 = not at all. start, stop: shares of the way from noise (0) to data (1) between
    which it acts, both included; the way is that of t, and t = 1 - share. (diffusers counts steps: on a grid of even steps in t it
    is the same.)"""

    weight: float = 1.0
    start: float = 0.0
    stop: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.weight, Real) or not math.isfinite(self.weight):
            raise UserError(f"the weight of an adapter is {self.weight}; it is a number, 1 = as it was trained")
        number("the start of an adapter", self.start)
        number("the stop of an adapter", self.stop)
        if not 0 <= self.start <= self.stop <= 1:
            raise UserError(f"an adapter acts from {self.start} to {self.stop}; give shares of the way, 0 <= start <= stop <= 1")

    def acts(self, t: Tensor) -> Tensor:
        """Whether it does at t (B,): bool (B,), on the CPU."""
        way = 1 - t.double().cpu()
        return (way >= self.start - 1e-9) & (way <= self.stop + 1e-9) & (self.weight != 0)
