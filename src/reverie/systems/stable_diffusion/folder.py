"""Stable Diffusion 1, 2 and XL, from folders in diffusers' layout and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reverie.codec import Latent
from reverie.encode import Hidden, Instructed
from reverie.encode.clip import Clip
from reverie.errors import UserError
from reverie.nets.unet import UNet
from reverie.systems import schedulers
from reverie.systems.folders import Folder, Saved
from reverie.systems.stable_diffusion import unet, vae
from reverie.systems.stable_diffusion.prompt import PromptXL
from reverie.systems.system import Sampling, System

PIPELINES = {
    "StableDiffusionPipeline": False,
    "StableDiffusionInpaintPipeline": False,
    "StableDiffusionInstructPix2PixPipeline": False,
    "StableDiffusionXLPipeline": True,
    "StableDiffusionXLImg2ImgPipeline": True,
    "StableDiffusionXLInpaintPipeline": True,
    "StableDiffusionXLInstructPix2PixPipeline": True,
}
"""What `model_index.json` names, and whether it is an XL."""


def open_folder(folder: Folder) -> System:
    """A system from the folder; UserError where a part is missing, damaged or of another kind."""
    net, config = folder.net("unet", unet.KIND), folder.json("unet/config.json")
    codec = folder.codec("vae", vae.KIND)
    size = codec.factor * int(config.get("sample_size") or 64)
    large = PIPELINES[str(folder.index["_class_name"])]
    return System(
        denoiser=schedulers.denoiser(net, folder.scheduler),
        codec=codec,
        encoders={"prompt": prompt_xl(folder, config, size) if large else folder.clip(), **shown(net.config.in_channels)},
        defaults=schedulers.sampling(folder.scheduler, sampling(large, size)),
    )


def shown(channels: int) -> dict[str, Any]:
    """What tells a net of pictures, by its channels: a part of one is hidden, or it is to be changed as the prompt says."""
    kinds: dict[int, dict[str, Any]] = {9: {"inpaint": Hidden()}, 8: {"instruct": Instructed()}}
    return kinds.get(channels, {})


def prompt_xl(folder: Folder, config: Mapping[str, Any], size: int) -> PromptXL:
    """The encoders of XL, or of the refiner, which has the second alone."""
    clips = [folder.clip(skip=1, raw=True)] if folder.has("text_encoder") else []
    clips.append(folder.clip("_2", projected=True, skip=1, raw=True))
    times, said = int(config.get("addition_time_embed_dim") or unet.TIMES), folder.index
    refiner, zeros = bool(said.get("requires_aesthetics_score")), bool(said.get("force_zeros_for_empty_prompt", True))
    return PromptXL(clips, times=times, size=(size, size), refiner=refiner, zeros=zeros)


def sampling(large: bool, side: int) -> Sampling:
    """How 1 and 2, and XL, are usually sampled."""
    return Sampling(guidance=5.0 if large else 7.5, steps=25, size=(side, side))


def holds(system: System) -> bool:
    """Whether a system can be written as a folder by this module."""
    encoder = system.encoders.get("prompt")
    return isinstance(system.denoiser.net, UNet) and isinstance(system.codec, Latent) and isinstance(encoder, (Clip, PromptXL))


def write_folder(system: System, folder: Path) -> None:
    """The system as diffusers reads it."""
    encoder, net = system.encoders["prompt"], system.denoiser.net
    assert isinstance(net, UNet) and isinstance(system.codec, Latent)
    saved = Saved(folder, _pipeline(encoder, net.config.in_channels), system)
    more = {"sample_size": system.defaults.size[0] // system.codec.factor}
    if isinstance(encoder, PromptXL):
        for name, clip in zip(("", "_2"), [None] * (2 - len(encoder.clips)) + [*encoder.clips], strict=True):
            saved.encoder(clip, name)
        more["addition_time_embed_dim"] = encoder.times
        said: dict[str, Any] = {"requires_aesthetics_score": encoder.refiner, "force_zeros_for_empty_prompt": encoder.zeros}
    else:
        saved.encoder(encoder)
        said = {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    saved.net("unet", net, unet.KIND, **more)
    saved.codec("vae", system.codec, vae.KIND)
    saved.close(**said)


def _pipeline(encoder: Any, channels: int) -> str:
    """The class of the folder; nets that are told a picture have 9 channels, where a part of it is hidden, or 8."""
    if channels not in (kinds := {4: "", 9: "Inpaint", 8: "InstructPix2Pix"}):
        raise UserError(f"diffusers' folders of Stable Diffusion have nets of 4, 8 or 9 channels, and this one has {channels}")
    if not isinstance(encoder, PromptXL):
        return f"StableDiffusion{kinds[channels]}Pipeline"
    return f"StableDiffusionXL{kinds[channels] or ('Img2Img' if encoder.refiner else '')}Pipeline"
