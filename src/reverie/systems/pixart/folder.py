"""PixArt-alpha and PixArt-Sigma, from folders in diffusers' layout and back."""

from pathlib import Path

from reverie.codec import Latent
from reverie.nets.pixart import PixArt
from reverie.systems import schedulers
from reverie.systems.folders import Folder, Saved
from reverie.systems.pixart import transformer
from reverie.systems.pixart.prompt import PromptPixArt
from reverie.systems.stable_diffusion import vae
from reverie.systems.system import Sampling, System

PIPELINES = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}
"""What `model_index.json` names, and how many tokens of T5 it reads."""


def open_folder(folder: Folder) -> System:
    """A system from the folder; UserError where a part is missing, damaged or of another kind."""
    net, codec = folder.net("transformer", transformer.KIND), folder.codec("vae", vae.KIND)
    side = codec.factor * int(folder.json("transformer/config.json").get("sample_size") or 128)
    t5 = folder.t5(length=PIPELINES[str(folder.index["_class_name"])])
    return System(
        denoiser=schedulers.denoiser(net, folder.scheduler, learned_variance=net.config.learn_sigma),
        codec=codec,
        encoders={"prompt": PromptPixArt(t5, (side, side) if net.config.sizes else None)},
        defaults=sampling(side),
    )


def sampling(side: int) -> Sampling:
    """How both are sampled by their authors."""
    return Sampling(steps=20, guidance=4.5, size=(side, side))


def holds(system: System) -> bool:
    """Whether a system can be written as a folder by this module."""
    return isinstance(system.encoders.get("prompt"), PromptPixArt) and isinstance(system.codec, Latent)


def write_folder(system: System, folder: Path) -> None:
    """The system as diffusers reads it."""
    prompt = system.encoders["prompt"]
    assert isinstance(prompt, PromptPixArt) and isinstance(system.codec, Latent)
    names = {length: name for name, length in PIPELINES.items()}
    saved = Saved(folder, names.get(prompt.length, "PixArtSigmaPipeline"), system)
    side, net = system.defaults.size[0] // system.codec.factor, system.denoiser.net
    assert isinstance(net, PixArt)
    scale = (side // net.config.patch) / net.config.span  # the size and the scale apart: the net knows their ratio alone
    saved.net("transformer", net, transformer.KIND, sample_size=side, interpolation_scale=scale)
    saved.codec("vae", system.codec, vae.KIND)
    saved.encoder(prompt)
    saved.close()
