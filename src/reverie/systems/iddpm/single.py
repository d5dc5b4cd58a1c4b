"""Improved DDPM from its authors' files (arXiv:2102.09672)."""

from collections.abc import Mapping
from dataclasses import replace

from reverie.denoiser import timestep
from reverie.nets.unet import UNetConfig
from reverie.process import schedules
from reverie.systems.adm import original
from reverie.systems.adm.original import Training
from reverie.systems.single import Single
from reverie.systems.system import System

STEPS = 4000
SIZES: Mapping[tuple[float, ...], int] = {(1, 2, 2, 2): 32}
"""Sides of the pictures by the widths of the levels; the smallest size of the others is 8x8."""


def trained(shape: UNetConfig, classes: bool) -> Training:
    """How the published net of this shape was trained.

    Those whose norms are scaled by the embedding have 4 heads and the cosine schedule of 4000 steps, of which they are told the
    thousandth parts of the whole, or, with classes, the numbers; that of LSUN has one head, and the schedule of DDPM.
    """
    size = SIZES.get(shape.mult, 8 * shape.multiple)
    if not shape.scale_shift:
        return Training(path=schedules.linear_table(), clock=timestep(1000.0, -1.0), size=size)
    clock = timestep(float(STEPS), -1.0) if classes else timestep(1000.0, -1000.0 / STEPS)
    return Training(path=schedules.cosine_table(STEPS), clock=clock, size=size, heads=4)


def recognises(file: Single) -> bool:
    """Whether a file holds this system: convolutions change its sizes."""
    shape = original.shape(file)
    return shape is not None and not shape.biggan


def open_file(file: Single) -> System:
    """A system from the file; UserError where a part is missing or damaged."""
    shape = original.shape(file)
    assert shape is not None
    training = trained(shape, original.CLASSES in file.tensors)
    return original.opened(file, replace(shape, heads=training.heads, head_width=None), training)
