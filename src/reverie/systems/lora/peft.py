"""What PEFT says of its changes beside the tensors: diffusers in the file's metadata, PEFT in `adapter_config.json` next to it.

scale = alpha / r,  or alpha / sqrt(r) with rsLoRA (arXiv:2312.03732)                                            (1)
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reverie.errors import UserError
from reverie.systems.lora.pieces import Piece

NAME, BESIDE = "lora_adapter_metadata", "adapter_config.json"
RAW = "base_model.model."


@dataclass(frozen=True)
class Told:
    """What is said of the layers whose names begin so."""

    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path, metadata: Mapping[str, Any]) -> "Told":
        """From the metadata of a file, or beside it; nothing where neither says anything."""
        said, where = metadata.get(NAME), f"{path}: {NAME}"
        beside = path.parent / BESIDE
        if said is None and beside.is_file():
            return cls({RAW: _object(beside.read_text(), str(beside))})
        configs: dict[str, dict[str, Any]] = {}
        for key, value in (_object(said, where) if said is not None else {}).items():
            part, _, name = key.partition(".")
            configs.setdefault(f"{part}.", {})[name] = value
        return cls(configs)

    def scale(self, layer: str, piece: Piece) -> float | None:
        """alpha / r of a layer, by its name in the file; None where nothing is said."""
        prefix = next((p for p in self.configs if layer.startswith(p)), None)
        if prefix is None:
            return None
        config = self.configs[prefix]
        rank = piece.rank or config.get("r")
        name = layer.removeprefix(prefix)
        special = config.get("alpha_pattern") or {}
        alpha = next(
            (
                v
                for k, v in special.items()
                if re.search(rf"(^|\.){re.escape(k)}$" if k[:1] != "^" else rf"{re.escape(k[1:])}$", name)
            ),
            config.get("lora_alpha", config.get("alpha")),
        )
        if alpha is None or rank is None:
            return None
        if not all(isinstance(n, (int, float)) and math.isfinite(n) for n in (alpha, rank)) or rank < 1:
            raise UserError(f"of {layer} alpha is {alpha!r} and r {rank!r}; they are numbers: the file is damaged, get it again")
        return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


@dataclass(frozen=True, kw_only=True)
class Layers:
    """What a configuration is written of: {layer: (rank, alpha / r)}. kind: LORA or LOHA. whole: their names begin the paths, which
    of encoders they need not."""

    each: Mapping[str, tuple[int, float]]
    kind: str = "LORA"
    dora: bool = False
    cores: bool = False
    whole: bool = True

    @property
    def config(self) -> dict[str, Any]:
        """The configuration with which PEFT makes the same changes: r and alpha of most, and of the others by their names."""
        rank = Counter(r for r, _ in self.each.values()).most_common(1)[0][0]
        alpha = Counter(_plain(r * s) for r, s in self.each.values()).most_common(1)[0][0]
        head = "^" if self.whole else ""  # else it would name all layers that end so
        ranks = {f"{head}{name}": r for name, (r, _) in self.each.items() if r != rank}
        alphas = {f"{head}{name}": _plain(r * s) for name, (r, s) in self.each.items() if _plain(r * s) != alpha}
        shared = {"r": rank, "rank_pattern": ranks, "alpha_pattern": alphas, "target_modules": sorted(self.each)}
        if self.kind == "LOHA":
            return shared | {"alpha": alpha, "use_effective_conv2d": self.cores}
        return shared | {"lora_alpha": alpha, "use_dora": self.dora, "bias": "none"}


def _plain(alpha: float) -> float:
    """A whole number as such."""
    return round(alpha) if abs(alpha - round(alpha)) < 1e-9 * max(abs(alpha), 1) else alpha


def _object(said: Any, where: str) -> dict[str, Any]:
    try:
        found = json.loads(said) if isinstance(said, str) else said
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{where} is no object of JSON: the file is damaged, get it again")
    return found
