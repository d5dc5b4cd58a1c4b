"""What a file of changes is, told by its keys and shapes, never by its name."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reverie.adapt.changes import Change, Dora, Hadamard, Kronecker, LowRank, Whole
from reverie.adapt.lora import Site, misfit
from reverie.errors import UserError
from reverie.files import load_tensors
from reverie.nets.stack import Stack
from reverie.systems import telling
from reverie.systems.lora.peft import Told
from reverie.systems.lora.pieces import Piece, block_of, pieces
from reverie.systems.lora.places import places, weights
from reverie.systems.system import System
from reverie.systems.weights import CARD

FORMATS = (
    (r"^lora_transformer_", "OneTrainer"),
    (r"^lycoris_", "LyCORIS"),
    (r"^lora_(unet|te\d?)_", "kohya"),
    (r"^base_model\.model\.", "PEFT"),
    (r"^(diffusion_model|text_encoders)\.", "ComfyUI's generic form"),
    (r"^(unet|transformer|text_encoder(_\d)?)\.", "diffusers"),
)
"""Whose names a file has, by how they begin."""
FAMILIES = (
    (r"(double|single)_blocks|single_transformer_blocks", "Flux"),
    (r"joint_blocks|add_q_proj|to_add_out|attn2?_add_|context_block", "Stable Diffusion 3"),
    (r"adaln_single|caption_projection", "PixArt or Sana"),
)
"""Of which models layers are, by their names."""
WIDTHS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL", 1280: "the refiner of XL"}
"""Of the words that attention reads, by which the U-Nets are told apart."""
KINDS: Mapping[type, str] = {LowRank: "LoRA", Hadamard: "LoHa", Kronecker: "LoKr", Whole: "whole differences"}


@dataclass(frozen=True, kw_only=True)
class Report:
    """What is found. kinds, ranks, scales: {which: layers that have it}. blocks: {block: (layers, strength)}, by |D|, or of a
    model |D| / |W|. applied, unknown: keys, of a model."""

    kinds: Mapping[str, int]
    format: str
    family: str
    ranks: Mapping[int, int]
    scales: Mapping[float, int]
    encoders: int
    keys: int
    strange: tuple[str, ...] = ()
    blocks: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    model: str = ""
    applied: int | None = None
    unknown: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)


@torch.no_grad()
def examined(path: Path, system: System | None = None) -> Report:
    """What is in a file; with a system, how it fits. UserError where it is no file of changes, with what it is."""
    tensors, metadata = load_tensors(path)
    layers, strange = pieces(tensors)
    told = Told.of(path, metadata)
    changes = {name: made for name, piece in layers.items() if (made := piece.change(f"{path}: {name}", told.scale(name, piece)))}
    if not changes:
        said = telling.part(tensors)
        raise UserError(f"{path} holds no changes of weights; {said or f'it holds {len(tensors)} other tensors'}")
    card = metadata.get(CARD)
    about = {k: v for k, v in metadata.items() if k not in (CARD, "format")}
    ours = card.get("base", {}).get("name", "") if isinstance(card, dict) else ""
    named, own = ({}, {}) if system is None else (places(system), weights(system))
    fits = {name: named[name] for name, change in changes.items() if name in named and not misfit(Site(named[name], change), own)}
    return Report(
        kinds=_count(_kind(change) for change in changes.values()),
        format="reverie" if ours else _first(FORMATS, layers, "names of its own"),
        family=ours or _family(layers),
        ranks=_count(rank for piece in layers.values() if (rank := piece.rank)),
        scales=_count(round(s, 6) for change in changes.values() if (s := _scale(change)) is not None),
        encoders=sum(bool(re.match(r"(lora_|lycoris_)?te(xt_encoder)?", name)) for name in changes),
        keys=len(tensors),
        strange=tuple(strange),
        blocks=_blocks(changes if system is None else {name: changes[name] for name in fits}, fits, own),
        model="" if system is None else system.name,
        applied=None if system is None else sum(len(layers[name].keys) for name in fits),
        unknown=tuple(key for name in layers if name not in fits for key in layers[name].keys) if system is not None else (),
        about=about | (dict(card.get("about", {})) if isinstance(card, dict) else {}),
    )


def _kind(change: Change) -> str:
    return f"DoRA of {_kind(change.inner)}" if isinstance(change, Dora) else KINDS.get(type(change), "a change")


def _scale(change: Change) -> float | None:
    return _scale(change.inner) if isinstance(change, Dora) else getattr(change, "scale", None)


def _count(values: Iterable[Any]) -> dict[Any, int]:
    return dict(Counter(values).most_common())


def _first(known: Iterable[tuple[str, str]], names: Iterable[str], usual: str) -> str:
    every = list(names)
    return next((what for pattern, what in known if any(re.search(pattern, name) for name in every)), usual)


def _family(layers: Mapping[str, Piece]) -> str:
    """Which model, by names, and of U-Nets by the width of the words."""
    if known := _first(FAMILIES, layers, ""):
        return known
    for name, piece in layers.items():
        down = piece.parts.get("down", piece.parts.get("hada_w1_b"))
        if re.search(r"attn2[._]to_k", name) and down is not None:
            return WIDTHS.get(down.shape[1], f"a U-Net that reads words {down.shape[1]} wide")
    return "unknown"


def _blocks(changes: Mapping[str, Change], named: Mapping[str, Stack], own: Mapping[str, Tensor]) -> dict[str, tuple[int, float]]:
    """{block: (layers, mean strength)}; beside the weights, where they are known."""
    found: dict[str, list[float]] = {}
    for name, change in changes.items():
        whole = named[name].together(own) if name in named else None
        if whole is None and isinstance(change, Dora):
            continue  # what it does depends on the weight
        size = float(change(whole if whole is not None else torch.zeros(change.shape)).norm())
        if whole is not None:
            size /= max(float(whole.float().norm()), 1e-12)
        found.setdefault(block_of(name), []).append(size)
    return {
        block: (len(sizes), sum(sizes) / len(sizes)) for block, sizes in sorted(found.items(), key=lambda pair: _natural(pair[0]))
    }


def _natural(name: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
