"""Systems as files: one `.safetensors`, its card in the metadata; nothing is ever unpickled.

card = {"denoiser": {"net", "path", "rule", "clock", "sigma_data", "learned_variance"}, "codec", "encoder", "defaults", "about"}
"""

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reverie.card import Card, card_of, rebuild
from reverie.codec import Latent, Pixels, Points, Shrunk
from reverie.denoiser import CLOCKS, Denoiser
from reverie.encode import Classes, Words
from reverie.errors import UserError, nearest
from reverie.files import load_tensors, save_tensors
from reverie.nets.autoencoder import Autoencoder, AutoencoderConfig
from reverie.nets.dit import DiT, DiTConfig
from reverie.nets.mlp import MLP, MLPConfig
from reverie.nets.text import TextConfig
from reverie.nets.unet import UNet, UNetConfig
from reverie.nets.upsampler import Upsampler, UpsamplerConfig
from reverie.process.noise import gaussian, offset, student_t
from reverie.process.rules import RULES
from reverie.process.schedules import SCHEDULES
from reverie.systems.system import Sampling, System

CONFIGS = (UNetConfig, DiTConfig, MLPConfig, AutoencoderConfig, UpsamplerConfig, TextConfig, Sampling)
NETS: dict[type, type[nn.Module]] = {UNetConfig: UNet, DiTConfig: DiT, MLPConfig: MLP, AutoencoderConfig: Autoencoder}
NOISES = (gaussian, offset, student_t)
FORMAT = 1


def build_net(config: Any) -> nn.Module:
    """The net a configuration describes."""
    return NETS[type(config)](config)


def denoiser_card(model: Denoiser | None) -> Card | None:
    if model is None:  # a codec alone
        return None
    return {
        "net": card_of(getattr(model.net, "config", None)),
        "path": card_of(model.path),
        "rule": card_of(model.rule),
        "clock": card_of(model.clock),
        "sigma_data": model.sigma_data,
        "learned_variance": model.learned_variance,
    }


def build_denoiser(card: Mapping[str, Any] | None, where: str) -> Any:
    if card is None:  # a codec alone
        return None
    known = ("net", "path", "rule", "clock", "sigma_data", "learned_variance")
    _only(card, known, where)
    return Denoiser(
        build_net(rebuild(card["net"], CONFIGS, f"{where}.net")),
        rebuild(card["path"], (*SCHEDULES, *NOISES), f"{where}.path"),
        rebuild(card["rule"], RULES, f"{where}.rule"),
        rebuild(card["clock"], CLOCKS, f"{where}.clock"),
        sigma_data=card["sigma_data"],
        learned_variance=card["learned_variance"],
    )


def codec_card(codec: Any) -> Card:
    if isinstance(codec, Points):
        return {"kind": "points"}
    if isinstance(codec, Pixels):
        return {"kind": "pixels", "channels": codec.channels}
    if isinstance(codec, Shrunk):
        return {"kind": "shrunk", "net": card_of(codec.net.config)}
    return {"kind": "latent", "net": card_of(codec.net.config)}


def build_codec(card: Mapping[str, Any], where: str) -> Any:
    if card.get("kind") == "points":
        return Points()
    if card.get("kind") == "pixels":
        return Pixels(card["channels"])
    _only(card, ("kind", "net"), where)
    config = rebuild(card["net"], CONFIGS, where)
    if card["kind"] == "shrunk":
        return Shrunk(Upsampler(config), config.factor, config.in_channels)
    return Latent(Autoencoder(config), config.latent, config.factor)


def encoder_card(encoder: Any) -> Card | None:
    if encoder is None:
        return None
    if isinstance(encoder, Classes):
        return {"kind": "classes", "classes": list(encoder.classes), "width": encoder.width}
    return {"kind": "words", "vocabulary": list(encoder.vocabulary), "text": card_of(encoder.config)}


def build_encoder(card: Mapping[str, Any] | None, where: str) -> Any:
    if card is None:
        return None
    if card.get("kind") == "classes":
        return Classes(card["classes"], card["width"])
    _only(card, ("kind", "vocabulary", "text"), where)
    return Words(card["vocabulary"], rebuild(card["text"], CONFIGS, where))


def _only(card: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for field in card:
        if field not in known:
            raise UserError(f"{where}: unknown field '{field}'.{nearest(field, known)}")
    if missing := [k for k in known if k not in card]:
        raise UserError(f"{where}: the field '{missing[0]}' is missing; the file was not written by reverie, or by a later version")


def parts(system: System) -> dict[str, nn.Module]:
    """The parts that have weights."""
    found = {"denoiser": system.denoiser, "codec": system.codec, "encoder": system.encoder}
    return {k: v for k, v in found.items() if isinstance(v, nn.Module)}


def save(system: System, path: str | Path, dtype: torch.dtype | None = None) -> None:
    """Writes a system; `dtype` (torch.float16) halves the file."""
    tensors = {f"{part}.{k}": v for part, module in parts(system).items() for k, v in module.state_dict().items()}
    tensors = {k: v.to(dtype) if dtype and v.is_floating_point() else v for k, v in tensors.items()}
    card = {
        "format": FORMAT,
        "denoiser": denoiser_card(system.denoiser),
        "codec": codec_card(system.codec),
        "encoder": encoder_card(system.encoder),
        "defaults": {f.name: card_of(getattr(system.defaults, f.name)) for f in fields(Sampling)},
        "about": system.about,
    }
    save_tensors(Path(path), tensors, {"reverie.card": card})


def load(path: str | Path) -> System:
    """Reads a system written by `save`, and checks it whole: names, fields, shapes, and that every weight is finite."""
    path = Path(path)
    tensors, about = load_tensors(path)
    card = about.get("reverie.card")
    if not isinstance(card, dict):
        raise UserError(f"{path} has no reverie card: it was not written by reverie.save")
    _only(card, ("format", "denoiser", "codec", "encoder", "defaults", "about"), str(path))
    if card["format"] > FORMAT:
        raise UserError(f"{path} has format {card['format']}, newer than this version reads ({FORMAT}): update reverie")
    with torch.device("meta"):  # nothing is drawn that the file will replace
        denoiser = build_denoiser(card["denoiser"], f"{path}: denoiser")
        codec = build_codec(card["codec"], f"{path}: codec")
        encoder = build_encoder(card["encoder"], f"{path}: encoder")
    system = System(
        denoiser=denoiser,
        codec=codec,
        encoder=encoder,
        defaults=rebuild({"name": "Sampling", **card["defaults"]}, CONFIGS, f"{path}: defaults"),
        about={**card["about"], "hash": fingerprint(tensors)},
    )
    for part, module in parts(system).items():
        own = {
            k[len(part) + 1 :]: v.float() if v.is_floating_point() else v for k, v in tensors.items() if k.startswith(part + ".")
        }
        for k, v in own.items():
            if not bool(v.isfinite().all()):
                raise UserError(
                    f"{path}: the weight {part}.{k} holds NaN or infinity: the training diverged or the file is damaged"
                )
        try:
            module.load_state_dict(own, assign=True)
        except RuntimeError as error:
            lines = str(error).splitlines()
            raise UserError(
                f"{path}: the weights of the {part} do not fit its card: {' '.join(lines[1:2] or lines).strip()}"
            ) from None
        module.eval().requires_grad_(False)
    return system


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and bytes, in order of name; its first ten digits stand in the pictures."""
    hasher = hashlib.sha256()
    for k in sorted(tensors):
        hasher.update(k.encode())
        hasher.update(tensors[k].contiguous().view(torch.uint8).numpy().tobytes() if tensors[k].numel() else b"")
    return hasher.hexdigest()
