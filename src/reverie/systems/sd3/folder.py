"""Stable Diffusion 3 and 3.5, from folders in diffusers' layout and back."""

from pathlib import Path

from reverie.codec import Latent
from reverie.denoiser import Denoiser
from reverie.encode import from_folder
from reverie.systems import schedulers
from reverie.systems.folders import Saved, index, read_json, read_net, write_net
from reverie.systems.sd3 import transformer
from reverie.systems.sd3.prompt import PromptSD3
from reverie.systems.stable_diffusion import vae
from reverie.systems.system import Sampling, System

PIPELINES = ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline")


def open_folder(folder: Path) -> System:
    """A system from the folder; UserError where a part is missing, damaged or of another kind."""
    net, codec = read_net(folder / "transformer", transformer.KIND), vae.read_codec(folder / "vae")
    said = read_json(folder / "scheduler" / "scheduler_config.json")
    path, rule, clock = schedulers.process(said)
    size = codec.factor * net.config.size * net.config.patch
    raw = {"projected": True, "skip": 1, "raw": True}
    clips = [from_folder.clip(folder / f"text_encoder{n}", folder / f"tokenizer{n}", **raw) for n in ("", "_2")]
    has_t5 = bool(index(folder).get("text_encoder_3", [None])[0])
    t5 = from_folder.t5(folder / "text_encoder_3", folder / "tokenizer_3", length=256) if has_t5 else None
    return System(
        denoiser=Denoiser(net, path, rule, clock),
        codec=codec,
        encoders={"prompt": PromptSD3(clips, t5, width=net.config.context_dim)},
        defaults=Sampling(solver="euler", steps=28, guidance=7.0, grid=schedulers.grid(said, ""), size=(size, size)),
        about={"name": folder.name},
    )


def holds(system: System) -> bool:
    """Whether a system can be written as a folder by this module."""
    return isinstance(system.encoders.get("prompt"), PromptSD3) and isinstance(system.codec, Latent)


def write_folder(system: System, folder: Path) -> None:
    """The system as diffusers reads it."""
    prompt = system.encoders["prompt"]
    assert isinstance(prompt, PromptSD3) and isinstance(system.codec, Latent)
    saved = Saved(folder, "StableDiffusion3Pipeline", system)
    write_net(system.denoiser.net, saved.part("transformer", transformer.KIND), transformer.KIND)
    vae.write_codec(system.codec, saved.part("vae", vae.KIND))
    for name, read in zip(("", "_2", "_3"), (*prompt.clips, prompt.t5), strict=True):
        saved.encoder(read, name)
    saved.close()
