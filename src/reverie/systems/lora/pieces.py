"""What the tensors of a file of changes are, by the ends of their names; whose file it is does not matter.

<layer>.lora_up.weight, .lora_down.weight, .lora_mid.weight, .alpha, .dora_scale        kohya, OneTrainer, ComfyUI
<layer>.lora_A.weight, .lora_B.weight, .lora_magnitude_vector                           PEFT, diffusers
<layer>.lora.up.weight, <layer>_lora.up.weight, .lora_linear_layer.up.weight            older diffusers
<layer>.hada_w1_a ..., .lokr_w1 ..., .diff, .diff_b                                     LyCORIS, ComfyUI
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from reverie.adapt.changes import Change, Dora, Hadamard, Kronecker, LowRank, Whole, kron_of, scale
from reverie.errors import UserError

ENDS = (
    (r"\.lora_up\.weight|\.lora_B(?:\.\w+)?\.weight|[._]lora\.up\.weight|\.lora_linear_layer\.up\.weight", "up"),
    (r"\.lora_down\.weight|\.lora_A(?:\.\w+)?\.weight|[._]lora\.down\.weight|\.lora_linear_layer\.down\.weight", "down"),
    (r"\.lora_mid\.weight", "core"),
    (r"\.alpha", "alpha"),
    (r"\.dora_scale|\.lora_magnitude_vector(?:\.\w+)?(?:\.weight)?", "length"),
    (r"\.(hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2)|diff_b|diff)", ""),
)
"""Ends of names, and what such a tensor is called here; '' = as it is there."""
PATTERNS = tuple((re.compile(rf"(.+?)(?:{end})$"), name) for end, name in ENDS)


@dataclass
class Piece:
    """All that a file has of one layer: tensors by what they are, and their full names."""

    parts: dict[str, Tensor] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)

    def change(self, where: str) -> Change | None:
        """What it does to the weight of the layer; None where it is no such thing. UserError where it does not hold together."""
        p = self.parts
        alpha = p.get("alpha")
        if alpha is not None and alpha.numel() != 1:
            raise UserError(f"{where}.alpha holds {tuple(alpha.shape)}; it is one number")
        try:
            made = _made(p, alpha)
        except (RuntimeError, ValueError, IndexError) as error:
            shapes = ", ".join(f"{k} {tuple(v.shape)}" for k, v in p.items())
            raise UserError(f"{where}: its parts do not fit together ({shapes}): {str(error).splitlines()[0]}") from None
        return Dora(made, p["length"]) if made is not None and "length" in p else made


def _made(p: Mapping[str, Tensor], alpha: Tensor | None) -> Change | None:
    if {"up", "down"} <= p.keys():
        inner = p["up"].shape[1]
        if inner != len(p["down"]) and "core" not in p:
            raise ValueError(f"rank {inner} and {len(p['down'])}")
        return LowRank(p["up"], p["down"], scale(alpha, len(p["down"])), p.get("core"))
    if {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"} <= p.keys():
        cores = (p["hada_t1"], p["hada_t2"]) if "hada_t1" in p else None
        pairs = (p["hada_w1_a"], p["hada_w1_b"]), (p["hada_w2_a"], p["hada_w2_b"])
        return Hadamard(*pairs, scale(alpha, len(p["hada_w1_b"])), cores)
    coarse = kron_of([p.get(k) for k in ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "")])
    fine = kron_of([p.get(k) for k in ("lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")])
    if coarse is not None and fine is not None:
        rank = next((len(p[k]) for k in ("lokr_w1_b", "lokr_w2_b") if k in p), None)
        return Kronecker(coarse, fine, 1.0 if rank is None else scale(alpha, rank))  # kept whole, it has no rank to divide by
    return Whole(p["diff"]) if "diff" in p else None


def pieces(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Piece], list[str]]:
    """Layers by the names that the file has for them, and the keys that are none of these."""
    found: dict[str, Piece] = {}
    strange: list[str] = []
    for key, value in tensors.items():
        for pattern, name in PATTERNS:
            if match := pattern.match(key):
                piece = found.setdefault(_layer(match[1]), Piece())
                piece.parts[name or match[2]] = value
                piece.keys.append(key)
                break
        else:
            strange.append(key)
    return found, strange


def _layer(name: str) -> str:
    """A layer of attention as older diffusers names it, by the name that it has in the net."""
    if ".processor." in name:
        name = name.replace(".processor.", ".")
        name = f"{name}.0" if name.endswith("to_out") else name
    return name
