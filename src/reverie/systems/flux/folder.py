"""Flux.1 dev and schnell, from folders in diffusers' layout and back."""

from pathlib import Path

from reverie.codec import Latent
from reverie.denoiser import Denoiser
from reverie.encode import from_folder
from reverie.systems import schedulers
from reverie.systems.flux import transformer
from reverie.systems.flux.prompt import PromptFlux
from reverie.systems.folders import Saved, read_json, read_net, write_net
from reverie.systems.stable_diffusion import vae
from reverie.systems.system import Sampling, System

PIPELINES = ("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline")
SIZE = 1024


def open_folder(folder: Path) -> System:
    """A system from the folder; UserError where a part is missing, damaged or of another kind."""
    net, codec = read_net(folder / "transformer", transformer.KIND), vae.read_codec(folder / "vae")
    said = read_json(folder / "scheduler" / "scheduler_config.json")
    path, rule, clock = schedulers.process(said)
    guided = net.config.guided
    clip = from_folder.clip(folder / "text_encoder", folder / "tokenizer")
    t5 = from_folder.t5(folder / "text_encoder_2", folder / "tokenizer_2", length=512 if guided else 256)
    usual = {"steps": 50, "guidance": 3.5} if guided else {"steps": 4, "guidance": 1.0}
    return System(
        denoiser=Denoiser(net, path, rule, clock),
        codec=codec,
        encoders={"prompt": PromptFlux(clip, t5)},
        defaults=Sampling(solver="euler", grid=schedulers.grid(said, ""), size=(SIZE, SIZE), **usual),  # type: ignore[arg-type]
        about={"name": folder.name},
    )


def holds(system: System) -> bool:
    """Whether a system can be written as a folder by this module."""
    return isinstance(system.encoders.get("prompt"), PromptFlux) and isinstance(system.codec, Latent)


def write_folder(system: System, folder: Path) -> None:
    """The system as diffusers reads it."""
    prompt = system.encoders["prompt"]
    assert isinstance(prompt, PromptFlux) and isinstance(system.codec, Latent)
    saved = Saved(folder, "FluxPipeline", system)
    write_net(system.denoiser.net, saved.part("transformer", transformer.KIND), transformer.KIND)
    vae.write_codec(system.codec, saved.part("vae", vae.KIND))
    saved.encoder(prompt.clip, "")
    saved.encoder(prompt.t5, "_2")
    saved.close()
