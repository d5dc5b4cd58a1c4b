"""Systems as files: one `.safetensors`, its card in the metadata; nothing is ever unpickled.

card = {"denoiser": {"net", "path", "rule", "clock", "sigma_data", "learned_variance"}, "codec", "encoder", "defaults", "about"}
A part that was trained alone has no denoiser and no defaults, but perhaps a reader.
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
from reverie.encode import Classes, Concepts, Words
from reverie.errors import UserError, nearest
from reverie.files import load_tensors, save_tensors
from reverie.measure.reader import Reader
from reverie.nets.autoencoder import Autoencoder, AutoencoderConfig
from reverie.nets.classifier import Classifier, ClassifierConfig
from reverie.nets.dit import DiT, DiTConfig
from reverie.nets.mlp import MLP, MLPConfig
from reverie.nets.text import TextConfig
from reverie.nets.unet import UNet, UNetConfig
from reverie.nets.upsampler import Upsampler, UpsamplerConfig
from reverie.process.noise import gaussian, offset, student_t
from reverie.process.rules import RULES
from reverie.process.schedules import SCHEDULES
from reverie.systems.system import Part, Sampling, System

CONFIGS = (UNetConfig, DiTConfig, MLPConfig, AutoencoderConfig, UpsamplerConfig, TextConfig, ClassifierConfig, Sampling)
NETS: dict[type, type[nn.Module]] = {UNetConfig: UNet, DiTConfig: DiT, MLPConfig: MLP, AutoencoderConfig: Autoencoder}
NOISES = (gaussian, offset, student_t)
FORMAT = 1


def build_net(config: Any) -> nn.Module:
    """The net a configuration describes."""
    return NETS[type(config)](config)


def denoiser_card(model: Denoiser) -> Card:
    return {
        "net": card_of(getattr(model.net, "config", None)),
        "path": card_of(model.path),
        "rule": card_of(model.rule),
        "clock": card_of(model.clock),
        "sigma_data": model.sigma_data,
        "learned_variance": model.learned_variance,
    }


def build_denoiser(card: Mapping[str, Any], where: str) -> Denoiser:
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


def codec_card(codec: Any) -> Card | None:
    if codec is None:
        return None
    if isinstance(codec, Points):
        return {"kind": "points"}
    if isinstance(codec, Pixels):
        return {"kind": "pixels", "channels": codec.channels}
    if isinstance(codec, Shrunk):
        return {"kind": "shrunk", "net": card_of(codec.net.config)}
    return {"kind": "latent", "net": card_of(codec.net.config)}


def build_codec(card: Mapping[str, Any] | None, where: str) -> Any:
    if card is None:
        return None
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
    if isinstance(encoder, Concepts):
        values = {k: list(v) for k, v in encoder.values.items()}
        return {"kind": "concepts", "vocabulary": list(encoder.vocabulary), "text": card_of(encoder.config), "values": values}
    return {"kind": "words", "vocabulary": list(encoder.vocabulary), "text": card_of(encoder.config)}


def build_encoder(card: Mapping[str, Any] | None, where: str) -> Any:
    if card is None:
        return None
    if card.get("kind") == "classes":
        return Classes(card["classes"], card["width"])
    concepts = card.get("kind") == "concepts"
    _only(card, ("kind", "vocabulary", "text", *(["values"] if concepts else [])), where)
    text = rebuild(card["text"], CONFIGS, where)
    return Concepts(card["vocabulary"], text, card["values"]) if concepts else Words(card["vocabulary"], text)


def reader_card(reader: Reader | None) -> Card | None:
    if reader is None:
        return None
    return {"net": card_of(reader.net.config), "values": {k: list(v) for k, v in reader.values.items()}, "size": reader.size}


def build_reader(card: Mapping[str, Any] | None, where: str) -> Reader | None:
    if card is None:
        return None
    _only(card, ("net", "values", "size"), where)
    return Reader(Classifier(rebuild(card["net"], CONFIGS, where)), card["values"], card["size"])


def _only(card: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for field in card:
        if field not in known:
            raise UserError(f"{where}: unknown field '{field}'.{nearest(field, known)}")
    if missing := [k for k in known if k not in card]:
        raise UserError(f"{where}: the field '{missing[0]}' is missing; the file was not written by reverie, or by a later version")


def parts(system: System | Part) -> dict[str, nn.Module]:
    """The parts that have weights."""
    return {name: part for name, part in vars(system).items() if isinstance(part, nn.Module)}


def card(system: System | Part) -> Card:
    """All that is needed to build it again, but the weights."""
    shared = {"format": FORMAT, "codec": codec_card(system.codec), "encoder": encoder_card(system.encoder), "about": system.about}
    if isinstance(system, Part):
        return shared | {"reader": reader_card(system.reader)}
    defaults = {f.name: card_of(getattr(system.defaults, f.name)) for f in fields(Sampling)}
    return shared | {"denoiser": denoiser_card(system.denoiser), "defaults": defaults}


def save(system: System | Part, path: str | Path, dtype: torch.dtype | None = None) -> None:
    """Writes a system; `dtype` (torch.float16) halves the file."""
    tensors = {f"{part}.{k}": v for part, module in parts(system).items() for k, v in module.state_dict().items()}
    tensors = {k: v.to(dtype) if dtype and v.is_floating_point() else v for k, v in tensors.items()}
    save_tensors(Path(path), tensors, {"reverie.card": card(system)})


def load(path: str | Path) -> System:
    """Reads a system written by `save`, and checks it whole: names, fields, shapes, and that every weight is finite."""
    system = load_any(path)
    if isinstance(system, Part):
        raise UserError(f"{path} is one part of a model, and makes no pictures alone: name the whole model")
    return system


def load_any(path: str | Path) -> System | Part:
    """A system, or a part that was trained alone."""
    path = Path(path)
    tensors, about = load_tensors(path)
    card = about.get("reverie.card")
    if not isinstance(card, dict):
        raise UserError(f"{path} has no reverie card: it was not written by reverie.save")
    if card.get("format", 0) > FORMAT:
        raise UserError(f"{path} has format {card['format']}, newer than this version reads ({FORMAT}): update reverie")
    with torch.device("meta"):  # nothing is drawn that the file will replace
        system = _build(card, fingerprint(tensors), str(path))
    for name, module in parts(system).items():
        _fill(
            module,
            {k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(name + ".")},
            f"{path}: the weights of the {name}",
        )
    return system


def _build(card: Mapping[str, Any], stamp: str, path: str) -> System | Part:
    whole = "denoiser" in card
    _only(card, ("format", "codec", "encoder", "about", *(("denoiser", "defaults") if whole else ("reader",))), path)
    shared = {
        "codec": build_codec(card["codec"], f"{path}: codec"),
        "encoder": build_encoder(card["encoder"], f"{path}: encoder"),
        "about": {**card["about"], "hash": stamp},
    }
    if not whole:
        return Part(**shared, reader=build_reader(card["reader"], f"{path}: reader"))
    known = {k: v for k, v in card["defaults"].items() if k != "clip"}  # older files carry it; nothing ever read it
    defaults = rebuild({"name": "Sampling", **known}, CONFIGS, f"{path}: defaults")
    return System(**shared, denoiser=build_denoiser(card["denoiser"], f"{path}: denoiser"), defaults=defaults)


def _fill(module: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """The weights go into a module built without any; it is then ready for use, and no longer for training."""
    for k, v in weights.items():
        if not bool(v.isfinite().all()):
            raise UserError(f"{what}: {k} holds NaN or infinity: the training diverged or the file is damaged")
    try:
        module.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()}, assign=True)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise UserError(f"{what} do not fit its card: {' '.join(lines[1:2] or lines).strip()}") from None
    module.eval().requires_grad_(False)


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and bytes, in order of name; its first ten digits stand in the pictures."""
    hasher = hashlib.sha256()
    for k in sorted(tensors):
        hasher.update(k.encode())
        hasher.update(tensors[k].contiguous().view(torch.uint8).numpy().tobytes() if tensors[k].numel() else b"")
    return hasher.hexdigest()
