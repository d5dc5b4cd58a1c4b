"""DDPM and whatever else draws pixels unasked, from folders in diffusers' layout and back."""

from pathlib import Path
from typing import Any

from reverie.codec import Pixels
from reverie.denoiser import Denoiser
from reverie.nets.unet import UNet
from reverie.systems import schedulers
from reverie.systems.ddpm import unet
from reverie.systems.folders import Folder, Saved
from reverie.systems.system import Sampling, System

PIPELINES = ("DDPMPipeline", "DDIMPipeline", "PNDMPipeline")


def open_folder(folder: Folder) -> System:
    """A system from the folder; UserError where a part is missing, damaged or of another kind."""
    net = folder.net("unet", unet.KIND)
    channels = net.config.in_channels
    model = denoiser(net, folder.scheduler)
    sides = size(folder.json("unet/config.json").get("sample_size"), net.config.multiple)
    return System(denoiser=model, codec=Pixels(channels), defaults=sampling(model.learned_variance, sides))


def sampling(learned: bool, sides: tuple[int, int]) -> Sampling:
    """How pixels are drawn: with a learnt variance in the 250 steps of improved DDPM's and ADM's authors, else in 50 of DDIM."""
    solver, steps = ("ddpm-learned", 250) if learned else ("ddim", 50)
    return Sampling(solver=solver, steps=steps, grid="uniform()", size=sides)


def denoiser(net: UNet, said: dict[str, Any]) -> Denoiser:
    """The net under a scheduler's process; twice the channels are those of a learnt variance."""
    learned = net.config.out_channels == 2 * net.config.in_channels
    return schedulers.denoiser(net, said, learned_variance=learned, bound=schedulers.bound(said))


def size(said: Any, multiple: int) -> tuple[int, int]:
    """Height and width of what the net draws, as its configuration has them: one number, two, or none."""
    if isinstance(said, (list, tuple)) and len(said) == 2:
        return int(said[0]), int(said[1])
    side = int(said) if isinstance(said, int) and said > 0 else 8 * multiple
    return side, side


def holds(system: System) -> bool:
    """Whether a system can be written as a folder by this module."""
    return isinstance(system.denoiser.net, UNet) and isinstance(system.codec, Pixels) and not system.encoders


def write_folder(system: System, folder: Path) -> None:
    """The system as diffusers reads it; a net that learnt its variance with the scheduler that uses it."""
    net, model = system.denoiser.net, system.denoiser
    assert isinstance(net, UNet)
    schedulers.written(model, system.defaults.grid)  # what cannot be said is said before anything is written
    saved = Saved(folder, "DDPMPipeline" if model.learned_variance else "DDIMPipeline", system)
    saved.net("unet", net, unet.KIND, sample_size=system.defaults.size)
    learnt = {"_class_name": "DDPMScheduler", "variance_type": "learned_range"}
    saved.close(learnt if model.learned_variance else None)
