"""Stable Diffusion 1, 2 and XL, from folders in diffusers' layout and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reverie.codec import Latent
from reverie.denoiser import Denoiser
from reverie.encode import from_folder
from reverie.encode.clip import Clip
from reverie.nets.unet import UNet
from reverie.systems import schedulers
from reverie.systems.folders import Saved, index, read_json, read_net, write_json, write_net
from reverie.systems.stable_diffusion import unet, vae
from reverie.systems.stable_diffusion.prompt import PromptXL
from reverie.systems.system import Sampling, System

PIPELINES = {
    "StableDiffusionPipeline": False,
    "StableDiffusionInpaintPipeline": False,
    "StableDiffusionXLPipeline": True,
    "StableDiffusionXLImg2ImgPipeline": True,
    "StableDiffusionXLInpaintPipeline": True,
}
"""What `model_index.json` names, and whether it is an XL."""


def open_folder(folder: Path) -> System:
    """A system from the folder; UserError where a part is missing, damaged or of another kind."""
    said = index(folder)
    net, config = read_net(folder / "unet", unet.KIND), read_json(folder / "unet" / "config.json")
    codec = vae.read_codec(folder / "vae")
    path, rule, clock = schedulers.process(read_json(folder / "scheduler" / "scheduler_config.json"))
    size = codec.factor * int(config.get("sample_size") or 64)
    large = PIPELINES[str(said["_class_name"])]
    prompt = _prompt_xl(folder, said, config, size) if large else from_folder.clip(folder / "text_encoder", folder / "tokenizer")
    return System(
        denoiser=Denoiser(net, path, rule, clock),
        codec=codec,
        encoders={"prompt": prompt},
        defaults=Sampling(guidance=5.0 if large else 7.5, steps=25, size=(size, size)),
        about={"name": folder.name},
    )


def _prompt_xl(folder: Path, said: Mapping[str, Any], config: Mapping[str, Any], size: int) -> PromptXL:
    """The encoders of XL, or of the refiner, which has the second alone."""
    clips = []
    if said.get("text_encoder", [None])[0]:
        clips.append(from_folder.clip(folder / "text_encoder", folder / "tokenizer", skip=1, raw=True))
    clips.append(from_folder.clip(folder / "text_encoder_2", folder / "tokenizer_2", projected=True, skip=1, raw=True))
    times = int(config.get("addition_time_embed_dim") or unet.TIMES)
    refiner, zeros = bool(said.get("requires_aesthetics_score")), bool(said.get("force_zeros_for_empty_prompt", True))
    return PromptXL(clips, times=times, size=(size, size), refiner=refiner, zeros=zeros)


def holds(system: System) -> bool:
    """Whether a system can be written as a folder by this module."""
    encoder = system.encoders.get("prompt")
    return isinstance(system.denoiser.net, UNet) and isinstance(system.codec, Latent) and isinstance(encoder, (Clip, PromptXL))


def write_folder(system: System, folder: Path) -> None:
    """The system as diffusers reads it."""
    encoder, net = system.encoders["prompt"], system.denoiser.net
    assert isinstance(net, UNet) and isinstance(system.codec, Latent)
    saved = Saved(folder, _pipeline(encoder, net.config.in_channels), system)
    write_net(net, saved.part("unet", unet.KIND), unet.KIND)
    vae.write_codec(system.codec, saved.part("vae", vae.KIND))
    more = {"sample_size": system.defaults.size[0] // system.codec.factor}
    if isinstance(encoder, PromptXL):
        clips = [None] * (2 - len(encoder.clips)) + [*encoder.clips]
        for name, clip in zip(("", "_2"), clips, strict=True):
            saved.encoder(clip, name)
        more["addition_time_embed_dim"] = encoder.times
        said: dict[str, Any] = {"requires_aesthetics_score": encoder.refiner, "force_zeros_for_empty_prompt": encoder.zeros}
    else:
        saved.encoder(encoder, "")  # type: ignore[arg-type]
        said = {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    write_json(folder / "unet" / "config.json", read_json(folder / "unet" / "config.json") | more)
    saved.close(**said)


def _pipeline(encoder: Any, channels: int) -> str:
    if not isinstance(encoder, PromptXL):
        return "StableDiffusionPipeline" if channels == 4 else "StableDiffusionInpaintPipeline"
    return "StableDiffusionXLImg2ImgPipeline" if encoder.refiner else "StableDiffusionXLPipeline"
