"""DDPM from ports of its first weights to PyTorch, which are one net by its own names."""

from collections.abc import Mapping

from reverie.codec import Pixels
from reverie.denoiser import Denoiser, timestep
from reverie.errors import UserError
from reverie.nets.unet import UNet
from reverie.process import rules, schedules
from reverie.systems.ddpm import original
from reverie.systems.single import Single
from reverie.systems.system import Sampling, System

MARKS = ("temb.dense.0.weight", "down.0.block.0.temb_proj.weight", "mid.attn_1.q.weight")
LARGE: Mapping[tuple[float, ...], int] = {(1, 1, 2, 2, 4, 4): 256}
"""Sides of the pictures by the widths of the levels; the others end at 4 x 4."""


def recognises(file: Single) -> bool:
    """Whether a file holds this system."""
    return all(mark in file.tensors for mark in MARKS)


def open_file(file: Single) -> System:
    """A system from the file; UserError where a part is missing or damaged."""
    try:
        shape = original.config(file.shapes)
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise UserError(f"{file.path}: its tensors are no whole net of DDPM ({error}): get it again") from None
    net = file.net("", shape, UNet, original.layout(shape))
    side = LARGE.get(shape.mult, 4 * shape.multiple)
    return System(
        denoiser=Denoiser(net, schedules.linear_table(), rules.eps(), timestep(1000.0, -1.0), bound=1.0),
        codec=Pixels(shape.in_channels),
        defaults=Sampling(steps=25, size=(side, side)),
    )
