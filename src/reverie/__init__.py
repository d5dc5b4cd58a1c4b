"""reverie: one house for diffusion models. Predict, then bridge.

    import reverie

    system = reverie.load("reverie-avatars")
    images = system.generate("a bald man with a beard", style="micah", seed=7, count=4)

Names are imported when they are first used, so that `import reverie` costs nothing.
"""

import importlib
from typing import Any

_HOMES = {
    "reverie.errors": ("UserError",),
    "reverie.rng": ("Rng",),
    "reverie.process": ("Path", "Process"),
    "reverie.denoiser": ("Cond", "Denoiser", "OneByOne"),
    "reverie.codec": ("Codec", "Latent", "Pixels"),
    "reverie.guide": ("autoguide", "cfg", "interval", "rescale", "threshold"),
    "reverie.solve": ("Ancestral", "Churn", "Exponential", "RungeKutta", "Solver", "Step", "sample", "trace"),
    "reverie.train": ("Run", "Training", "denoising", "fit"),
    "reverie.systems": ("Sampling", "System", "save"),
    "reverie.tasks": ("Picture", "Ready", "generate", "load"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
_ROOMS = ("data", "encode", "guide", "measure", "nets", "oracle", "process", "solve", "systems", "tasks", "train")

__all__ = sorted(_HOME)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"reverie.{name}")
    raise AttributeError(f"module 'reverie' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, *_ROOMS]
