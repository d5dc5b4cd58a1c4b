"""ADM from its authors' files (arXiv:2105.05233)."""

from dataclasses import replace

from reverie.denoiser import timestep
from reverie.process import schedules
from reverie.systems.adm import original
from reverie.systems.adm.original import Training
from reverie.systems.single import Single
from reverie.systems.system import System


def trained(mult: tuple[float, ...]) -> Training:
    """How the published net of these levels was trained; the others as the one at 256x256, whose smallest size is 8x8."""
    usual = Training(path=schedules.linear_table(), clock=timestep(1000.0, -1.0), size=8 * 2 ** (len(mult) - 1), head_width=64)
    if mult == (1, 2, 3, 4):
        return replace(usual, path=schedules.cosine_table(), whole=True)
    return replace(usual, heads=4, head_width=None) if mult == (1, 1, 2, 3, 4) else usual


def recognises(file: Single) -> bool:
    """Whether a file holds this system: residual blocks change its sizes."""
    shape = original.shape(file)
    return shape is not None and shape.biggan


def open_file(file: Single) -> System:
    """A system from the file; UserError where a part is missing or damaged."""
    shape = original.shape(file)
    assert shape is not None
    training = trained(shape.mult)
    return original.opened(file, replace(shape, heads=training.heads, head_width=training.head_width), training)
