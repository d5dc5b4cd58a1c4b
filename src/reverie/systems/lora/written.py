"""Files of changes written as others write them: what each layer is called there, in which tensors, and where alpha is said."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reverie.errors import UserError
from reverie.files import load_tensors, save_tensors
from reverie.nets.stack import Stack
from reverie.systems.folders import write_json
from reverie.systems.lora.files import open_lora
from reverie.systems.lora.formats import Format, Target, targets
from reverie.systems.lora.peft import BESIDE, NAME, Layers, Told
from reverie.systems.lora.pieces import pieces
from reverie.systems.lora.places import places, weights
from reverie.systems.lora.recut import Learnt, apart, together, whole
from reverie.systems.lora.spec import described, unplaced
from reverie.systems.system import System
from reverie.systems.weights import CARD, FORMAT

KINDS = {"up": "a LoRA", "hada_w1_a": "a LoHa", "lokr": "a LoKr", "diff_b": "a difference of a bias", "diff": "a whole difference"}


@dataclass(frozen=True, kw_only=True)
class Read:
    """A file of changes: what was learnt of which of our weights, and what the file says."""

    path: Path
    layers: Sequence[Learnt]
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a file of a format holds: tensors, and what is said of their scales beside."""

    tensors: Mapping[str, Tensor]
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def read(path: Path, system: System) -> Read:
    """A file of anyone's format for this system; UserError where not all of its keys apply."""
    open_lora(path, system)  # which looks at every key and number
    tensors, metadata = load_tensors(path)
    named, told = places(system), Told.of(path, metadata)
    layers = []
    for name, piece in pieces(tensors)[0].items():
        parts = dict(piece.parts)
        alpha, bias = parts.pop("alpha", None), parts.pop("diff_b", None)
        if parts:
            layers.append(Learnt(_stack(named[name]), parts, piece.scale(name, told.scale(name, piece)), alpha))
        if bias is not None:
            layers.append(Learnt(_stack(named[f"{name}.bias"]), {"diff": bias}))
    return Read(path=path, layers=layers, metadata=metadata)


def _stack(stack: Stack) -> Stack:
    return Stack(tuple(stack.keys), stack.rounds)


def convert(path: Path, system: System, asked: Format, out: Path, about: bool = True) -> Path:
    """Writes a file of changes in another format; the file that was written. about: with `modelspec` and `ss_` entries."""
    return write(read(path, system), system, asked, out, about)


def write(found: Read, system: System, asked: Format, out: Path, about: bool = True) -> Path:
    """The same of changes that were read or made. out: a file, or a folder for the usual name."""
    place = _place(out, asked)
    made = written(found, system, asked)
    said: dict[str, Any] = {}
    if about:
        said = described(made.tensors, system, place.stem if place.name != asked.file else out.name, asked.name, found.metadata)
    if asked.scales == "diffusers":
        said[NAME] = {f"{part}.{k}": v for part, config in made.configs.items() for k, v in config.items()}
    elif asked.name == "reverie":
        card = found.metadata.get(CARD)
        kept = {k: unplaced(card[k]) for k in ("about", "defaults") if k in card} if isinstance(card, dict) else {}
        said[CARD] = {"format": FORMAT, "lora": {}, "base": {"name": system.name, "hash": system.hash}, "about": {}, **kept}
    save_tensors(place, made.tensors, said)
    if asked.scales == "peft":
        write_json(place.parent / BESIDE, next(iter(made.configs.values())))
    return place


def _place(out: Path, asked: Format) -> Path:
    if out.suffix != ".safetensors":
        return out / asked.file
    if asked.scales == "peft" and out.name != asked.file:
        raise UserError(f"PEFT looks for {asked.file} and {BESIDE} in a folder: name one with --out, and no file")
    return out


def written(found: Read, system: System, asked: Format) -> Written:
    """The tensors of a format. UserError where it has no place for what was learnt."""
    own = weights(system)
    known = {key: target for target in targets(system, asked) for key in target.stack.keys}
    tensors: dict[str, Tensor] = {}
    layers: dict[str, dict[str, tuple[Learnt, Target]]] = {}
    for target, learnt in placed(found, known, own, asked):
        if "core" not in asked.ends:
            learnt = whole(learnt)
        name = target.name.removesuffix(".bias")
        for part, value in _shaped(learnt, target, asked).items():
            end = "diff_b" if name != target.name else part
            if end not in asked.ends:
                raise UserError(f"{found.path}: of {name} it has {_kind(end)}, which files of {asked.whose} do not hold")
            tensors[name + asked.ends[end]] = value.clone()  # pieces of one may share what they were cut from
        if asked.scales == "tensors" and learnt.rank:
            alpha = torch.tensor(learnt.scale * learnt.rank) if learnt.alpha is None else learnt.alpha.clone()
            tensors[f"{name}.alpha"] = alpha
        layers.setdefault(target.part, {})[name] = (learnt, target)
    configs = {} if asked.scales == "tensors" else {part: _config(each, part, asked, found) for part, each in layers.items()}
    return Written(tensors=tensors, configs=configs)


def _kind(part: str) -> str:
    return next((said for begin, said in KINDS.items() if part.startswith(begin)), "lengths of columns")


def placed(found: Read, known: Mapping[str, Target], own: Mapping[str, Tensor], asked: Format) -> Iterator[tuple[Target, Learnt]]:
    """What was learnt, cut as the format cuts its tensors: as it is, where that is how it lies."""
    alone: dict[str, Learnt] = {}
    done: set[str] = set()
    for learnt in found.layers:
        where = f"{found.path}: {learnt.stack.keys[0]}"
        for key in learnt.stack.keys:
            if key not in known:
                raise UserError(f"{where}: {asked.whose} has no name for it, so the file cannot be written in that format")
            if key in done:
                raise UserError(f"{where} is changed by two layers of the file: no format holds that")
            done.add(key)
        target = known[learnt.stack.keys[0]]
        if _stack(target.stack) == learnt.stack:
            yield target, learnt
        else:
            alone |= apart(learnt, own, where)
    wanted = {known[key].name: known[key] for key in alone}
    for target in wanted.values():
        where = f"{found.path}: {target.name}"
        yield target, alone[target.stack.keys[0]] if len(target.stack.keys) == 1 else together(alone, target.stack, own, where)


def _shaped(learnt: Learnt, target: Target, asked: Format) -> dict[str, Tensor]:
    """The parts as the format holds them: of a convolution with its places, and lengths as it has them."""
    p, kernel = dict(learnt.parts), target.kernel
    ones = [1] * len(kernel)
    if target.name.endswith(".bias"):
        return p
    if "up" in p:
        p["up"] = p["up"].reshape(*p["up"].shape[:2], *ones)
        places = ones if "core" in p else kernel
        p["down"] = p["down"].reshape(len(p["down"]), -1, *places)
    if "diff" in p and p["diff"].ndim > 1:
        p["diff"] = p["diff"].reshape(*p["diff"].shape[:2], *kernel)
    if (length := p.get("length")) is not None:
        rows = len(length) != 1
        if asked.scales == "tensors":
            p["length"] = length.reshape(-1, 1, *ones) if rows else length.reshape(1, -1, *ones)
        elif rows:
            p["length"] = length.flatten() if not kernel else length.reshape(1, -1, *ones)
        else:
            p["lengths of columns"] = p.pop("length")
    if learnt.blocks and learnt.rank is None and learnt.scale != 1:  # there is no alpha without a rank
        p["lokr_w1"] = p["lokr_w1"] * learnt.scale
    return p


def _config(layers: Mapping[str, tuple[Learnt, Target]], part: str, asked: Format, found: Read) -> dict[str, Any]:
    """What PEFT is told of a part."""
    kinds = {("LOHA" if "hada_w1_a" in each.parts else "LORA", "length" in each.parts) for each, _ in layers.values()}
    cores = {"hada_t1" in each.parts for each, target in layers.values() if math.prod(target.kernel) > 1}
    if len(kinds) > 1 or (len(cores) > 1 and ("LOHA", False) in kinds):
        raise UserError(f"{found.path} holds changes of several kinds, and a file of {asked.whose} those of one")
    ((kind, dora),) = kinds
    head = asked.net if asked.scales == "peft" else f"{part}."
    net = not part.startswith("text_encoder")
    each = {_bare(name.removeprefix(head), net): (one.rank or 1, one.scale) for name, (one, _) in layers.items()}
    made = Layers(each=each, kind=kind, dora=dora, cores=cores == {True}, whole=net).config
    if asked.scales == "peft":
        return {"peft_type": kind, "base_model_name_or_path": None, "inference_mode": True, **made}
    return made


def _bare(name: str, net: bool) -> str:
    return name if net else re.sub(r"^text_model\.", "", name)
