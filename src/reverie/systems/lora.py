"""Files of changes of weights: read for a system and written, with how many of the keys apply.

One of ours names weights as ComfyUI's generic form does, "diffusion_model.<path>.lora_A.weight" (A), "lora_B" (B) and "alpha"; its
card says the model, and, where it was distilled, how it is best drawn with.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from reverie.adapt.lora import Change, Changed, Lora, LowRank
from reverie.card import rebuild
from reverie.errors import UserError
from reverie.files import load_tensors, save_tensors
from reverie.nets.lora import lora_state
from reverie.systems.system import Sampling, System
from reverie.systems.weights import CARD, FORMAT, fingerprint

LOG = logging.getLogger("reverie")
NET = "diffusion_model."
DOWN, UP, ALPHA = ".lora_A.weight", ".lora_B.weight", ".alpha"


def save_lora(
    net: nn.Module, path: str | Path, base: Mapping[str, str], about: Mapping[str, Any], drawn: Sampling | None = None
) -> None:
    """Writes the low-rank changes (`nets.lora.adapt`) of a net. base: "name" and "hash" of its model; drawn: how, with them."""
    card: dict[str, Any] = {"format": FORMAT, "lora": {}, "base": dict(base), "about": dict(about)}
    if drawn is not None:
        card["defaults"] = asdict(drawn)
    save_tensors(Path(path), {NET + k: v for k, v in lora_state(net).items()}, {CARD: card})


def open_lora(path: str | Path, system: System, partial: bool = False) -> Lora:
    """The changes in a file, for this system. UserError where the file is none, or where not all of its keys apply, unless
    `partial`."""
    place = Path(path).expanduser()
    tensors, metadata = load_tensors(place)
    card = metadata.get(CARD)
    about = card if isinstance(card, dict) else {}
    if rotten := [k for k, v in tensors.items() if not bool(v.isfinite().all())]:
        raise UserError(f"{path}: {rotten[0]} holds NaN or infinity: the training diverged or the file is damaged")
    own = {f"{NET}{k}" for k in _net(system).state_dict()}
    changes: dict[str, Change] = {}
    left = dict(tensors)
    for key in [k for k in tensors if k.endswith(UP)]:
        head = key.removesuffix(UP)
        if f"{head}.weight" not in own or head + DOWN not in left:
            continue
        up, down, alpha = left.pop(key), left.pop(head + DOWN), left.pop(head + ALPHA, None)
        changes[f"{head.removeprefix(NET)}.weight"] = LowRank(up, down, _scale(alpha, down, f"{path}: {head}{ALPHA}"))
    if not changes:
        raise UserError(f"{path}: none of its {len(tensors)} keys applies to {system.name}: it is of another model, or no LoRA")
    said = f"{path}: {len(tensors) - len(left)} of {len(tensors)} keys apply to {system.name}"
    if left and not partial:
        raise UserError(f"{said}; unknown: {', '.join(sorted(left)[:4])}. What fits can be had with --partial")
    LOG.warning("%s", said) if left else LOG.info("%s", said)
    _check_base(about.get("base"), system, path)
    return Lora(name=place.stem, hash=fingerprint(tensors), changes=changes, about=about)


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
    Changed(_net(system)).set(loras)
    made = [{"name": lora.name, "hash": lora.hash, "weight": weight} for lora, weight in loras]
    system = replace(system, about={**system.about, "loras": made})
    for lora, _ in loras:
        if "defaults" in lora.about:
            names = {f.name for f in fields(Sampling)}
            told = {k: v for k, v in dict(lora.about["defaults"]).items() if k in names}
            system = replace(system, defaults=rebuild({"name": "Sampling", **told}, (Sampling,), f"{lora.name}: defaults"))
    return system


def _net(system: System) -> nn.Module:
    net = getattr(system.denoiser, "net", None)
    if not isinstance(net, nn.Module):
        raise UserError(f"{system.name} has no net whose weights could be changed")
    return net


def _scale(alpha: Tensor | None, down: Tensor, where: str) -> float:
    if alpha is None:
        return 1.0
    if alpha.numel() != 1:
        raise UserError(f"{where} holds {tuple(alpha.shape)}; it is one number")
    return float(alpha) / down.shape[0]


def _check_base(base: Any, system: System, path: str | Path) -> None:
    stamp = base.get("hash") if isinstance(base, Mapping) else ""
    if stamp and system.hash and stamp != system.hash:
        LOG.warning("%s was trained on %s of other weights than these of %s", path, json.dumps(base.get("name")), system.name)
