"""How long and how hard a run trains, checked."""

from dataclasses import dataclass, replace

import torch

from reverie.errors import UserError
from reverie.nets.precision import quick_dtype

RANGES = {
    "steps": (1, 1e9), "minutes": (0, 1e6), "batch": (1, 1e6), "rate": (0, 10), "warmup": (0, 1e9), "weight_decay": (0, 100),
    "clip": (0, 1e9), "snapshots": (0, 1000), "seed": (0, 2**63 - 1), "holdout": (1, 1e9), "save_minutes": (0, 1e9),
    "validate_minutes": (0, 1e9),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Training:
    """How long and how hard to train."""

    steps: int | None = None
    """Optimiser steps; none = as many as fit into `minutes`."""
    minutes: float = 10.0
    """Length of the run where no `steps` are given: their number is fixed once the speed is known."""
    batch: int = 32
    rate: float = 2e-3
    """Learning rate of AdamW after the warm-up."""
    warmup: int = 100
    decay: float = 0.4
    """Last part of the run over which the rate falls linearly to 0."""
    weight_decay: float = 0.01
    beta2: float = 0.99
    clip: float = 1.0
    """Largest norm of the gradient."""
    widths: tuple[float, ...] = (0.05, 0.10)
    """Relative lengths of the weight averages (arXiv 2312.02696)."""
    snapshots: int = 8
    """Stored moments of the averages, from which any other length can be made afterwards."""
    bf16: bool | None = None
    """bfloat16 inside the nets; by default where the CPU computes in it."""
    compile: bool = False
    seed: int = 0
    holdout: int = 256
    """Pictures kept for the validation loss."""
    save_minutes: float = 2.0
    validate_minutes: float = 2.0

    def __post_init__(self) -> None:
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:  # so that NaN is refused, too
                raise UserError(f"training: {name} is {value}; it must be at least {least:g} and at most {most:g}")
        for name in ("rate", "minutes", "clip"):
            if not getattr(self, name) > 0:
                raise UserError(f"training: {name} is {getattr(self, name)}; it must be positive")
        if not (0 <= self.decay <= 1 and 0 <= self.beta2 < 1):
            raise UserError(f"training: decay is {self.decay} and beta2 {self.beta2}; they lie between 0 and 1")
        if not self.widths or not all(0 < width < 0.28 for width in self.widths):
            raise UserError(f"training: widths are {self.widths}; give one or more between 0 and 0.28")

    @classmethod
    def gentle(cls, steps: int, minutes: float, batch: int, rate: float, seed: int) -> "Training":
        """Of a model that knows much already; steps: 0 = as many as fit into the minutes."""
        own = cls(steps=steps or None, minutes=minutes, batch=batch, rate=rate, seed=seed)
        return replace(own, warmup=20, decay=0.5, widths=(0.05,), snapshots=0)

    @property
    def autocast(self) -> torch.dtype | None:
        """What the inside of the nets is computed in; None = as it is."""
        return quick_dtype() if self.bf16 is None else torch.bfloat16 if self.bf16 else None
