"""DDPM from ports of its first weights to PyTorch, which are one net by its own names."""

from collections.abc import Mapping

from reverie.codec import Pixels
from reverie.denoiser import Denoiser, timestep
from reverie.nets.unet import UNet
from reverie.process import rules, schedules
from reverie.systems.building import building
from reverie.systems.ddpm import original
from reverie.systems.ddpm.folder import sampling
from reverie.systems.single import Single
from reverie.systems.system import System

MARKS = ("temb.dense.0.weight", "down.0.block.0.temb_proj.weight", "mid.attn_1.q.weight")
LARGE: Mapping[tuple[float, ...], int] = {(1, 1, 2, 2, 4, 4): 256}
"""Sides of the pictures by the widths of the levels; the others end at 4 x 4."""


def recognises(file: Single) -> bool:
    """Whether a file holds this system."""
    return all(mark in file.tensors for mark in MARKS)


def open_file(file: Single) -> System:
    """A system from the file; UserError where a part is missing or damaged."""
    with building(str(file.path), len(file.tensors), "net of DDPM"):
        shape = original.config(file.shapes)
    net = file.net("", shape, UNet, original.layout(shape))
    side = LARGE.get(shape.mult, 4 * shape.multiple)
    return System(
        denoiser=Denoiser(net, schedules.linear_table(), rules.eps(), timestep(1000.0, -1.0), bound=1.0),
        codec=Pixels(shape.in_channels),
        defaults=sampling(False, (side, side)),
    )
