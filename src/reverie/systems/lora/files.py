"""Files of changes of weights: read for a system and written, with how many of the keys apply.

One of ours names weights as ComfyUI's generic form does, "diffusion_model.<path>.lora_A.weight" (A), "lora_B" (B) and "alpha"; its
card says the model, and, where it was distilled, how it is best drawn with.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from reverie.adapt.changes import Whole
from reverie.adapt.lora import Changed, Lora, Site, misfit
from reverie.card import rebuild
from reverie.errors import UserError
from reverie.files import load_tensors, save_tensors
from reverie.nets.lora import lora_state
from reverie.nets.stack import Stack
from reverie.systems.lora.peft import Told
from reverie.systems.lora.pieces import Piece, pieces
from reverie.systems.lora.places import GENERIC, places, prefixes, weights
from reverie.systems.system import Sampling, System
from reverie.systems.weights import CARD, FORMAT, fingerprint

LOG = logging.getLogger("reverie")
SHOWN = 4
"""Names of keys that a message lists."""


def save_lora(
    system: System,
    path: str | Path,
    base: Mapping[str, str],
    about: Mapping[str, Any],
    drawn: Sampling | None = None,
    more: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes the low-rank changes (`nets.lora.adapt`) of a system's net and encoder of words.

    base: "name" and "hash" of its model; drawn: how, with them; more: other changes of the net, by layers.
    """
    card: dict[str, Any] = {"format": FORMAT, "lora": {}, "base": dict(base), "about": dict(about)}
    if drawn is not None:
        card["defaults"] = asdict(drawn)
    net = lora_state(system.denoiser.net) | dict(more or {})
    tensors = {GENERIC + k: v for k, v in net.items()}
    for prefix, words in prefixes(system.prompt_encoder):
        tensors |= {prefix + k: v for k, v in lora_state(words).items()}
    save_tensors(Path(path), tensors, {CARD: card})


def open_lora(path: str | Path, system: System, partial: bool = False) -> Lora:
    """The changes in a file, for this system. UserError where it is none, is damaged, or where not all of its keys apply, unless
    `partial`."""
    place = Path(path).expanduser()
    tensors, metadata = load_tensors(place)
    if rotten := [k for k, v in tensors.items() if v.is_floating_point() and not bool(v.isfinite().all())]:
        raise UserError(f"{path}: {rotten[0]} holds NaN or infinity: the training diverged or the file is damaged")
    layers, left = pieces(tensors)
    named, own, told = places(system), weights(system), Told.of(place, metadata)
    sites: list[Site] = []
    made = 0
    for name, piece in layers.items():
        found = sited(piece, name, named, f"{path}: {name}", told)
        if not found or any(misfit(site, own) for site in found):
            left += piece.keys
            continue
        sites += found
        made += len(piece.keys)
    if not made:
        some = ", ".join(sorted(tensors)[:SHOWN])
        raise UserError(
            f"{path}: none of its {len(tensors)} keys ({some}) applies to {system.name}: it is of another model, or no LoRA"
        )
    said = f"{path}: {made} of {len(tensors)} keys apply to {system.name}"
    if left and not partial:
        raise UserError(f"{said}; not {', '.join(sorted(left)[:SHOWN])}. What fits can be had with --partial")
    LOG.log(logging.WARNING if left else logging.INFO, "%s", said)
    card = metadata.get(CARD)
    about: dict[str, Any] = card if isinstance(card, dict) else {}
    _check_base(about.get("base"), system, path)
    return Lora(name=place.stem, hash=fingerprint(tensors), sites=sites, about=about)


def sited(piece: Piece, name: str, named: Mapping[str, Stack], where: str, told: Told) -> list[Site]:
    """What a piece does, and to which weights; nothing where there are none of this name."""
    change = piece.change(where, told.scale(name, piece)) if name in named else None
    bias = piece.parts.get("diff_b") if f"{name}.bias" in named else None
    found = [] if change is None else [Site(named[name], change)]
    return found if bias is None else [*found, Site(named[f"{name}.bias"], Whole(bias))]


def asked(text: str) -> tuple[str, float]:
    """The file and the weight of "FILE" or "FILE:0.8"."""
    place, _, last = text.rpartition(":")
    try:
        return (place, float(last)) if place else (text, 1.0)
    except ValueError:
        return text, 1.0


def given_loras(system: System, texts: Sequence[str], partial: bool = False) -> System:
    """The system with the changes in files, each as "FILE" or "FILE:WEIGHT"."""
    found = [(open_lora(place, system, partial), weight) for place, weight in map(asked, texts)]
    made = with_loras(system, found) if found else system
    for told, text in zip(made.about.get("loras", ()), texts, strict=False):
        told["given"] = text
    return made


def with_loras(system: System, loras: Sequence[tuple[Lora, float]]) -> System:
    """The system with these changes in its own weights; those that were distilled say how it is then drawn with."""
    Changed(weights(system)).set(loras)
    made = [{"name": lora.name, "hash": lora.hash, "weight": weight, "given": f"{lora.name}:{weight}"} for lora, weight in loras]
    system = replace(system, about={**system.about, "loras": made})
    for lora, _ in loras:
        if "defaults" in lora.about:
            names = {f.name for f in fields(Sampling)}
            told = {k: v for k, v in dict(lora.about["defaults"]).items() if k in names}
            system = replace(system, defaults=rebuild({"name": "Sampling", **told}, (Sampling,), f"{lora.name}: defaults"))
    return system


def _check_base(base: Any, system: System, path: str | Path) -> None:
    stamp = base.get("hash") if isinstance(base, Mapping) else ""
    if stamp and system.hash and stamp != system.hash:
        LOG.warning("%s was trained on %s of other weights than these of %s", path, base.get("name"), system.name)
