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
from reverie.systems.folders import index, read_json, read_net, write_json, write_net
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
    encoder, d = system.encoders["prompt"], system.denoiser
    clips = [*encoder.clips] if isinstance(encoder, PromptXL) else [encoder]
    assert isinstance(system.codec, Latent)
    write_net(d.net, folder / "unet", unet.KIND)
    vae.write_codec(system.codec, folder / "vae")
    write_json(folder / "scheduler" / "scheduler_config.json", schedulers.written(d, system.defaults.grid))
    parts: dict[str, Any] = {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    names = ("", "_2") if len(clips) == 2 else ("_2",) if isinstance(encoder, PromptXL) else ("",)
    for name, clip in zip(names, clips, strict=True):
        assert isinstance(clip, Clip)
        parts |= from_folder.write(clip, folder, name)
    more = {"sample_size": system.defaults.size[0] // system.codec.factor}
    if isinstance(encoder, PromptXL):
        more["addition_time_embed_dim"] = encoder.times
        parts |= {part: [None, None] for part in ("text_encoder", "tokenizer") if part not in parts}
        parts |= {"requires_aesthetics_score": encoder.refiner, "force_zeros_for_empty_prompt": encoder.zeros}
    else:
        parts |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    write_json(folder / "unet" / "config.json", read_json(folder / "unet" / "config.json") | more)
    write_json(
        folder / "model_index.json", {"_class_name": _pipeline(system), **parts, "scheduler": ["diffusers", "DDIMScheduler"]}
    )


def _pipeline(system: System) -> str:
    encoder, net = system.encoders["prompt"], system.denoiser.net
    assert isinstance(net, UNet)
    if not isinstance(encoder, PromptXL):
        return "StableDiffusionPipeline" if net.config.in_channels == 4 else "StableDiffusionInpaintPipeline"
    return "StableDiffusionXLImg2ImgPipeline" if encoder.refiner else "StableDiffusionXLPipeline"
