"""Stable Diffusion 3 and 3.5, from folders in diffusers' layout and back."""

from pathlib import Path
from typing import Any

from reverie.codec import Latent
from reverie.nets.mmdit import MMDiTConfig
from reverie.systems import schedulers
from reverie.systems.folders import Folder, Saved
from reverie.systems.sd3 import transformer
from reverie.systems.sd3.prompt import ROWS, PromptSD3
from reverie.systems.stable_diffusion import vae
from reverie.systems.system import Sampling, System

PIPELINES = ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline")


def open_folder(folder: Folder) -> System:
    """A system from the folder; UserError where a part is missing, damaged or of another kind."""
    net, codec = folder.net("transformer", transformer.KIND), folder.codec("vae", vae.KIND)
    size = codec.factor * net.config.size * net.config.patch
    raw: dict[str, Any] = {"projected": True, "skip": 1, "raw": True}
    clips = [folder.clip(n, **raw) for n in ("", "_2")]
    t5 = folder.t5("_3", length=ROWS) if folder.has("text_encoder_3") else None
    return System(
        denoiser=schedulers.denoiser(net, folder.scheduler),
        codec=codec,
        encoders={"prompt": PromptSD3(clips, t5, width=net.config.context_dim)},
        defaults=sampling(net.config, schedulers.grid(folder.scheduler, ""), size),
    )


def sampling(net: MMDiTConfig, grid: str, side: int) -> Sampling:
    """How 3 and 3.5 are usually sampled; the nets of 3.5 norm what they compare, and those of 3 do not."""
    steps, guidance = (40, 4.5) if net.qk_norm or net.dual else (28, 7.0)
    return Sampling(solver="euler", steps=steps, guidance=guidance, grid=grid, size=(side, side))


def holds(system: System) -> bool:
    """Whether a system can be written as a folder by this module."""
    return isinstance(system.encoders.get("prompt"), PromptSD3) and isinstance(system.codec, Latent)


def write_folder(system: System, folder: Path) -> None:
    """The system as diffusers reads it."""
    prompt = system.encoders["prompt"]
    assert isinstance(prompt, PromptSD3) and isinstance(system.codec, Latent)
    saved = Saved(folder, "StableDiffusion3Pipeline", system)
    saved.net("transformer", system.denoiser.net, transformer.KIND)
    saved.codec("vae", system.codec, vae.KIND)
    for name, read in zip(("", "_2", "_3"), (*prompt.clips, prompt.t5), strict=True):
        saved.encoder(read, name)
    saved.close()
