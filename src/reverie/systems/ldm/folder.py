"""Latent diffusion of nothing in particular, from folders in diffusers' layout and back."""

from pathlib import Path

from reverie.codec import Latent
from reverie.errors import UserError
from reverie.nets.dcae import DCAE
from reverie.nets.unet import UNet
from reverie.nets.vq import VQAutoencoder
from reverie.systems import schedulers
from reverie.systems.ddpm import unet
from reverie.systems.ddpm.folder import denoiser, size
from reverie.systems.folders import Folder, Kind, Saved
from reverie.systems.ldm import vq
from reverie.systems.stable_diffusion import vae
from reverie.systems.system import Sampling, System

TEXT = "LDMTextToImagePipeline"
PIPELINES = ("LDMPipeline", TEXT)
KINDS = {kind.name: kind for kind in (vq.KIND, vae.KIND)}


def open_folder(folder: Folder) -> System:
    """A system from the folder; UserError where a part is missing, damaged or of another kind."""
    if folder.index["_class_name"] == TEXT:
        raise UserError(
            f"{folder.path} reads prompts with LDMBert, a text encoder of its own, which is not among ours: "
            "take Stable Diffusion 1, its successor"
        )
    net, part = folder.net("unet", unet.KIND), folder.json("vqvae/config.json").get("_class_name")
    codec = folder.codec("vqvae", KINDS.get(str(part), vq.KIND))
    side = size(folder.json("unet/config.json").get("sample_size"), net.config.multiple)
    return System(
        denoiser=denoiser(net, folder.scheduler),
        codec=codec,
        defaults=sampling(False, (codec.factor * side[0], codec.factor * side[1])),
    )


def sampling(guided: bool, sides: tuple[int, int]) -> Sampling:
    """How latent diffusion is sampled, by its authors' script and by diffusers; guided: there is a null class."""
    return Sampling(solver="ddim", steps=50, guidance=3.0 if guided else 1.0, grid="uniform()", size=sides)


def holds(system: System) -> bool:
    """Whether a system can be written as a folder by this module."""
    drawn = isinstance(system.denoiser.net, UNet) and not system.encoders
    return drawn and isinstance(system.codec, Latent) and not isinstance(system.codec.net, DCAE)


def write_folder(system: System, folder: Path) -> None:
    """The system as diffusers reads it."""
    net = system.denoiser.net
    assert isinstance(net, UNet) and isinstance(system.codec, Latent)
    schedulers.written(system.denoiser, system.defaults.grid)  # what cannot be said is said before anything is written
    kind: Kind = vq.KIND if isinstance(system.codec.net, VQAutoencoder) else vae.KIND
    saved = Saved(folder, "LDMPipeline", system)
    saved.net("unet", net, unet.KIND, sample_size=system.defaults.size[0] // system.codec.factor)
    saved.codec("vqvae", system.codec, kind)
    saved.close()
