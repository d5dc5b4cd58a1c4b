"""Systems as files: one `.safetensors`, its card in the metadata; nothing is ever unpickled.

card = {"format", "denoiser": {"net", "path", "rule", "clock", "sigma_data", "learned_variance"}, "codec", "encoders", "defaults",
"about"}; a part that was trained alone has no denoiser and no defaults, but perhaps a reader. The tensors are named by the part
they belong to: "denoiser.", "codec.", "reader.", and "encoders.prompt." or what else is said.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor, nn

from reverie.card import Card, card_of, rebuild
from reverie.codec import CODECS
from reverie.denoiser import CLOCKS, TOLD, Denoiser
from reverie.encode import ENCODERS, SAID, SHOWN, Concepts
from reverie.errors import UserError, nearest
from reverie.files import load_tensors, save_tensors
from reverie.measure.matching import Matcher
from reverie.measure.noisy import NoisyReader, Scorer
from reverie.measure.reader import Reader
from reverie.nets.clocks import tell
from reverie.nets.dit import DiT, DiTConfig
from reverie.nets.lora import merged_state
from reverie.nets.mlp import MLP, MLPConfig
from reverie.nets.mmdit import MMDiT, MMDiTConfig
from reverie.nets.moe import MoE, MoEConfig
from reverie.nets.pixart import PixArt, PixArtConfig
from reverie.nets.sana import Sana, SanaConfig
from reverie.nets.unet import UNet, UNetConfig
from reverie.process.noise import gaussian, offset, student_t
from reverie.process.path import Path
from reverie.process.rules import RULES
from reverie.process.schedules import SCHEDULES
from reverie.systems.system import Part, Sampling, System

NETS: dict[type, type[nn.Module]] = {
    UNetConfig: UNet,
    DiTConfig: DiT,
    MoEConfig: MoE,
    PixArtConfig: PixArt,
    SanaConfig: Sana,
    MMDiTConfig: MMDiT,
    MLPConfig: MLP,
}
"""What a denoiser's net may be: one line each."""
NOISES = (gaussian, offset, student_t)
READER = Reader | Matcher | NoisyReader | Scorer
READERS = (Reader, Matcher, NoisyReader, Scorer, Concepts, *CLOCKS)
"""What a reader may be, and what it is made of."""
FORMAT = 2
CARD = "reverie.card"
"""The entry of a file's metadata that says it is ours."""
EMPTY = torch.device("meta")
"""Where modules are built whose weights a file will give: nothing is drawn. Paths are not: their tables are numbers."""
ABOUT = {"name": str, "styles": list[str], "data": Mapping[str, Any], "recipe": Mapping[str, Any]}


def build_net(config: Any) -> nn.Module:
    """The net a configuration describes; UserError where there can be none."""
    try:
        return NETS[type(config)](config)
    except Exception as error:  # whatever a net says of its configuration, it came from a file or a command
        raise UserError(f"no net can be made from {config}: {' '.join(str(error).split())}") from error


def denoiser_card(model: Denoiser) -> Card:
    return {
        "net": card_of(getattr(model.net, "config", None)),
        "path": card_of(model.path),
        "rule": card_of(model.rule),
        "clock": card_of(model.clock),
        "sigma_data": model.sigma_data,
        "learned_variance": model.learned_variance,
        "bound": model.bound,
    } | ({"hears": list(model.hears)} if model.hears else {})


def build_denoiser(card: Any, where: str) -> Denoiser:
    card = {"bound": None, "hears": [], **card} if isinstance(card, Mapping) else card  # which the first files do not speak of
    only(card, ("net", "path", "rule", "clock", "sigma_data", "learned_variance", "bound", "hears"), where)
    heard = rebuild(card["hears"], (), f"{where}.hears", Sequence[str])
    if unknown := [name for name in heard if name not in TOLD]:
        raise UserError(f"{where}.hears: no clock is called '{unknown[0]}'.{nearest(unknown[0], TOLD)}")
    with EMPTY:
        net = build_net(rebuild(card["net"], NETS, f"{where}.net"))
        net = tell(net, heard) if heard else net
    return Denoiser(
        net,
        rebuild(card["path"], (*SCHEDULES, *NOISES), f"{where}.path", Path),
        rebuild(card["rule"], RULES, f"{where}.rule"),
        rebuild(card["clock"], CLOCKS, f"{where}.clock"),
        sigma_data=rebuild(card["sigma_data"], (), f"{where}.sigma_data", float | None),
        learned_variance=rebuild(card["learned_variance"], (), f"{where}.learned_variance", bool),
        bound=rebuild(card["bound"], (), f"{where}.bound", float | None),
    )


def only(card: Any, known: tuple[str, ...], where: str, needed: bool = True) -> None:
    """UserError unless the card is a mapping with these fields; all of them, where they are needed."""
    if not isinstance(card, Mapping):
        raise UserError(f"{where} is {card!r}; it must be a mapping with {', '.join(known)}: the file is damaged, get it again")
    for field in card:
        if field not in known:
            raise UserError(f"{where}: unknown field '{field}'.{nearest(str(field), known)}")
    if needed and (missing := [k for k in known if k not in card]):
        raise UserError(f"{where}: the field '{missing[0]}' is missing; the file was not written by reverie, or by a later version")


def parts(system: System | Part) -> dict[str, nn.Module]:
    """The parts that have weights, by the names of their tensors."""
    every = {**vars(system), **{f"encoders.{kind}": encoder for kind, encoder in system.encoders.items()}}
    return {name: part for name, part in every.items() if isinstance(part, nn.Module)}


def card(system: System | Part) -> Card:
    """All that is needed to build it again, but the weights."""
    shared = {
        "format": FORMAT,
        "codec": card_of(system.codec),
        "encoders": card_of(system.encoders),
        "about": system.about,
    }
    if isinstance(system, Part):
        return shared | {"reader": card_of(system.reader)}
    defaults = {k: v for k, v in card_of(system.defaults).items() if k != "name"}
    return shared | {"denoiser": denoiser_card(system.denoiser), "defaults": defaults}


def save(system: System | Part, path: str | File, dtype: torch.dtype | None = None) -> None:
    """Writes a system, low-rank changes merged; `dtype` (torch.float16) halves the file."""
    tensors = {f"{part}.{k}": v for part, module in parts(system).items() for k, v in merged_state(module).items()}
    tensors = {k: v.to(dtype) if dtype and v.is_floating_point() else v for k, v in tensors.items()}
    save_tensors(File(path), tensors, {CARD: card(system)})


def load(path: str | File) -> System:
    """Reads a system written by `save`, and checks it whole: names, fields, shapes, and that every weight is finite."""
    system = load_any(path)
    if isinstance(system, Part):
        raise UserError(f"{path} is one part of a model, and makes no pictures alone: name the whole model")
    return system


def load_any(path: str | File) -> System | Part:
    """A system, or a part that was trained alone."""
    tensors, about = load_tensors(File(path))
    card = about.get(CARD)
    if not isinstance(card, dict):
        raise UserError(
            f"{path} has no reverie card, so it is no model of ours: name a file that `reverie train` or reverie.save wrote"
        )
    if "control" in card:
        base = card.get("base")
        name = base.get("name") if isinstance(base, dict) else "another model"
        raise UserError(f"{path} is a control of {name}, and makes no pictures alone: name that model")
    if "lora" in card:
        raise UserError(f"{path} is a change of the weights of a model, a LoRA: name the model, and this with --lora")
    if "embedding" in card:
        raise UserError(f"{path} holds words that were learnt: name the model, and this with --embedding")
    if (form := rebuild(card.get("format"), (), f"{path}: format", int)) > FORMAT:
        raise UserError(f"{path} has format {form}, newer than this version reads ({FORMAT}): update reverie")
    stamp = fingerprint(tensors)
    if form == 1:
        card, tensors = _of_format_1(card, tensors)
    system = _build(card, stamp, str(path))
    _fill_all(system, tensors, str(path))
    return system


def _of_format_1(card: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[Card, dict[str, Tensor]]:
    """Card and tensors as they are written now: there was one encoder, and kinds in place of the names of classes."""

    def named(part: Any) -> Any:
        if not isinstance(part, Mapping) or not isinstance(kind := part.get("kind"), str):
            return part
        return {"name": kind.capitalize(), **{k: v for k, v in part.items() if k != "kind"}}

    now = {k: named(v) if k == "codec" else v for k, v in card.items() if k != "encoder"}
    encoder = named(card.get("encoder"))
    said = "class" if isinstance(encoder, Mapping) and encoder.get("name") == "Classes" else "prompt"
    if isinstance(reader := card.get("reader"), Mapping):
        now["reader"] = {"name": "Reader", **reader}
    if "encoder" in card:
        now["encoders"] = {} if encoder is None else {said: encoder}
    return now, {(f"encoders.{said}.{k[8:]}" if k.startswith("encoder.") else k): v for k, v in tensors.items()}


def _build(card: Mapping[str, Any], stamp: str, path: str) -> System | Part:
    whole = "denoiser" in card
    only(card, ("format", "codec", "encoders", "about", *(("denoiser", "defaults") if whole else ("reader",))), path)
    only(card["encoders"], (*SAID, *SHOWN), f"{path}: encoders", needed=False)
    with EMPTY:
        made: dict[str, Any] = {
            "encoders": {kind: rebuild(said, ENCODERS, f"{path}: encoders.{kind}") for kind, said in card["encoders"].items()},
            "codec": None if card["codec"] is None and not whole else rebuild(card["codec"], CODECS, f"{path}: codec"),
            "reader": None if card.get("reader") is None else rebuild(card["reader"], READERS, f"{path}: reader", READER),
        }
    about = {**_about(card["about"], f"{path}: about"), "hash": stamp}
    if not whole:
        return Part(**made, about=about)
    only(card["defaults"], tuple(f.name for f in fields(Sampling)), f"{path}: defaults", needed=False)
    return System(
        encoders=made["encoders"],
        codec=made["codec"],
        denoiser=build_denoiser(card["denoiser"], f"{path}: denoiser"),
        defaults=rebuild({"name": "Sampling", **card["defaults"]}, (Sampling,), f"{path}: defaults"),
        about=about,
    )


def _about(about: Any, where: str) -> Mapping[str, Any]:
    """What the file says of itself; UserError unless what others look at is of its kind."""
    checked: Mapping[str, Any] = rebuild(about, (), where, Mapping[str, Any])
    for name, kind in ABOUT.items():
        if name in checked:
            rebuild(checked[name], (), f"{where}.{name}", kind)
    return checked


def _fill_all(system: System | Part, tensors: Mapping[str, Tensor], path: str) -> None:
    """Every part gets its weights, and every tensor must belong to one."""
    left = dict(tensors)
    for name, module in parts(system).items():
        own = {k[len(name) + 1 :]: left.pop(k) for k in tensors if k.startswith(name + ".")}
        fill(module, own, f"{path}: the weights of the {name}")
    if left:
        raise UserError(f"{path}: '{min(left)}' belongs to no part of the model: the file is damaged, get it again")


def fill(module: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """The weights go into a module built without any; it is then ready for use, and no longer for training."""
    wanted = module.state_dict()
    for k, v in weights.items():
        if not bool(v.isfinite().all()):
            raise UserError(f"{what}: {k} holds NaN or infinity: the training diverged or the file is damaged")
        if k in wanted and v.is_floating_point() != wanted[k].is_floating_point():
            raise UserError(f"{what} do not fit its card: {k} holds {v.dtype}, and not {wanted[k].dtype}")
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
        hasher.update(tensors[k].reshape(-1).view(torch.uint8).numpy().tobytes() if tensors[k].numel() else b"")
    return hasher.hexdigest()
