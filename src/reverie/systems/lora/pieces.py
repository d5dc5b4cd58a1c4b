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

from reverie.adapt.changes import Change, Dora, Hadamard, Kronecker, LowRank, Whole, kron_of
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

BLOCK = re.compile(
    r"(?:lora_|lycoris_)?((?:te\d?|text_encoder(?:_\d)?|text_encoders[._]\w+?)(?=[._])|"
    r"(?:down|up|mid|input|output|middle|transformer|single_transformer|double|single|joint)_blocks?[._]?\d*|blocks[._]\d+|"
    r"(?:down|up|joint|single)\.\d+(?=\.)|(?:bottom|middle)(?=\.))"
)
"""The part of a layer's name that says the block."""
OTHER = "other layers"


@dataclass
class Piece:
    """All that a file has of one layer: tensors by what they are, and their full names."""

    parts: dict[str, Tensor] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)

    @property
    def rank(self) -> int | None:
        """Of the product that it is; None where it is none."""
        return next((len(self.parts[k]) for k in ("down", "hada_w1_b", "lokr_w1_b", "lokr_w2_b") if k in self.parts), None)

    def scale(self, where: str, told: float | None = None) -> float:
        """alpha / r: as the tensors say, or else as is told, or 1."""
        alpha = self.parts.get("alpha")
        if alpha is not None and alpha.numel() != 1:
            raise UserError(f"{where}.alpha holds {tuple(alpha.shape)}; it is one number")
        if alpha is not None and self.rank:  # LoKr that is kept whole has no rank to divide by
            return float(alpha) / self.rank
        return 1.0 if told is None else told

    def change(self, where: str, told: float | None = None) -> Change | None:
        """What it does to the weight of the layer; None where it is no such thing. UserError where it does not hold together.

        told: alpha / r, where that is said elsewhere.
        """
        p, scale = self.parts, self.scale(where, told)
        try:
            made = _made(p, scale)
        except (RuntimeError, ValueError, IndexError) as error:
            shapes = ", ".join(f"{k} {tuple(v.shape)}" for k, v in p.items())
            raise UserError(f"{where}: its parts do not fit together ({shapes}): {str(error).splitlines()[0]}") from None
        if made is None or (length := p.get("length")) is None:
            return made
        if length.numel() not in made.shape[:2]:
            raise UserError(f"{where}: {length.numel()} lengths for a weight of {made.shape}: one for each row or column is needed")
        return Dora(made, length)


def _made(p: Mapping[str, Tensor], scale: float) -> Change | None:
    if {"up", "down"} <= p.keys():
        if (inner := p["up"].shape[1]) != len(p["down"]) and "core" not in p:
            raise ValueError(f"rank {inner} and {len(p['down'])}")
        return LowRank(p["up"], p["down"], scale, p.get("core"))
    if {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"} <= p.keys():
        cores = (p["hada_t1"], p["hada_t2"]) if "hada_t1" in p else None
        return Hadamard((p["hada_w1_a"], p["hada_w1_b"]), (p["hada_w2_a"], p["hada_w2_b"]), scale, cores)
    coarse = kron_of([p.get(k) for k in ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "")])
    fine = kron_of([p.get(k) for k in ("lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")])
    if coarse is not None and fine is not None:
        return Kronecker(coarse, fine, scale)
    return Whole(p["diff"]) if "diff" in p else None


def pieces(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Piece], list[str]]:
    """Layers by the names that the file has for them, and the keys that are none of these."""
    found: dict[str, Piece] = {}
    strange: list[str] = []
    for key, value in tensors.items():
        for pattern, name in PATTERNS:
            if match := pattern.match(key):
                piece = found.setdefault(_layer(match[1]), Piece())
                rows = name == "length" and "lora_magnitude_vector" in key  # PEFT's of a convolution is (1, out, 1, 1)
                piece.parts[name or match[2]] = value.flatten() if rows else value
                piece.keys.append(key)
                break
        else:
            strange.append(key)
    return found, strange


def block_of(name: str) -> str:
    """The block of the net that a layer of this name belongs to, or the encoder."""
    match = BLOCK.search(name)
    return match[1].replace(".", "_").strip("_") if match else OTHER


def _layer(name: str) -> str:
    """A layer of attention as older diffusers names it, by the name that it has in the net."""
    if ".processor." in name:
        name = name.replace(".processor.", ".")
        name = f"{name}.0" if name.endswith("to_out") else name
    return name
