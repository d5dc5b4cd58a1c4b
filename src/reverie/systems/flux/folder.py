"""Flux.1 dev and schnell, from folders in diffusers' layout and back."""

from pathlib import Path

from reverie.codec import Latent
from reverie.systems import schedulers
from reverie.systems.flux import transformer
from reverie.systems.flux.prompt import PromptFlux
from reverie.systems.folders import Folder, Saved
from reverie.systems.stable_diffusion import vae
from reverie.systems.system import Sampling, System

PIPELINES = ("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline")
SIZE = 1024


def open_folder(folder: Folder) -> System:
    """A system from the folder; UserError where a part is missing, damaged or of another kind."""
    net, codec = folder.net("transformer", transformer.KIND), folder.codec("vae", vae.KIND)
    guided = net.config.guided
    prompt = PromptFlux(folder.clip(), folder.t5("_2", length=512 if guided else 256))
    return System(
        denoiser=schedulers.denoiser(net, folder.scheduler),
        codec=codec,
        encoders={"prompt": prompt},
        defaults=sampling(guided, schedulers.grid(folder.scheduler, "")),
    )


def sampling(guided: bool, grid: str) -> Sampling:
    """How dev, which is told the guidance, and schnell are sampled."""
    steps, guidance = (50, 3.5) if guided else (4, 1.0)
    return Sampling(solver="euler", steps=steps, guidance=guidance, grid=grid, size=(SIZE, SIZE))


def holds(system: System) -> bool:
    """Whether a system can be written as a folder by this module."""
    return isinstance(system.encoders.get("prompt"), PromptFlux) and isinstance(system.codec, Latent)


def write_folder(system: System, folder: Path) -> None:
    """The system as diffusers reads it."""
    prompt = system.encoders["prompt"]
    assert isinstance(prompt, PromptFlux) and isinstance(system.codec, Latent)
    saved = Saved(folder, "FluxPipeline", system)
    saved.net("transformer", system.denoiser.net, transformer.KIND)
    saved.codec("vae", system.codec, vae.KIND)
    saved.encoder(prompt.clip)
    saved.encoder(prompt.t5, "_2")
    saved.close()
