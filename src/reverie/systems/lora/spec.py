"""What a file of changes says for other tools: ModelSpec 1.0.1 and the `ss_` entries of kohya's scripts with their hashes.

    modelspec.hash_sha256 = 0x + SHA-256 of all bytes after the header, as they lie in the file                     (1)
    sshs_model_hash       = the same without 0x                                                                     (2)
    sshs_legacy_hash      = first 8 digits of the SHA-256 of 0x10000 bytes at 0x100000 of the file                  (3)

where (3) is of the file as it would be with the `ss_` entries alone, so that other entries do not change it. No path of the machine
is among them: what has one is left out.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from safetensors.torch import save
from torch import Tensor

from reverie.nets.unet import UNetConfig
from reverie.systems.lora.formats import FORMATS, family
from reverie.systems.lora.places import DIFFUSERS, OURS
from reverie.systems.system import System

ARCHITECTURES = {
    "sd1": "stable-diffusion-v1",
    "sdxl": "stable-diffusion-xl-v1-base",
    "refiner": "stable-diffusion-xl-v1-refiner",
    "sd3": "stable-diffusion-v3-medium",
    "flux": "flux-1-dev",
    "pixart": "pixart",
    "sana": "sana",
}
BASES = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0", "refiner": "sdxl_refiner_v1-0", "sd3": "sd3", "flux": "flux1"}
STABILITY = "https://github.com/Stability-AI/generative-models"
PUBLISHERS = {"sdxl": STABILITY, "refiner": STABILITY, "sd3": STABILITY, "flux": "https://github.com/black-forest-labs/flux"}
"""Whose code the paths of the publishers are of."""
TOLD = (
    *("base_model_version", "v2", "sd_model_name", "sd_model_hash", "new_sd_model_hash", "vae_name", "vae_hash", "new_vae_hash"),
    *("tag_frequency", "datasets", "dataset_dirs", "bucket_info", "resolution", "clip_skip", "seed", "steps", "epoch"),
    *("training_comment", "min_snr_gamma", "noise_offset", "num_train_images", "learning_rate", "unet_lr", "optimizer"),
)
"""The `ss_` entries that a file which is converted keeps, if it has them; those of the net are of the new file."""
PATH = re.compile(r"(^|[\s\"'=:(\[,])(~?/[^\s/\"']+/|file:|\\\\|[A-Za-z]:[\\/](?!/))")
"""What looks like a place on a machine; an address of the web has // after its colon."""


def described(
    tensors: Mapping[str, Tensor], system: System, title: str, written: str, source: Mapping[str, Any] | None = None, **more: Any
) -> dict[str, str]:
    """The entries for a file of these tensors. written: its format. source: those of a file that it was made of. more: `ss_`
    entries without their prefix."""
    kind, was = family(system), {k: _text(v) for k, v in (source or {}).items()}
    said = {f"ss_{k}": was[f"ss_{k}"] for k in TOLD if f"ss_{k}" in was}
    said |= {f"ss_{k}": _text(v) for k, v in _ours(tensors, system, kind, title).items() if f"ss_{k}" not in said}
    said |= {f"ss_{k}": _text(v) for k, v in more.items() if v is not None}
    spec = {k: v for k, v in was.items() if k.startswith("modelspec.")} | _spec(system, kind, title, written, was)
    spec = {k: v for k, v in spec.items() if v.startswith("data:image/") or not PATH.search(v)}
    said = {k: v for k, v in said.items() if not PATH.search(v)}
    whole, legacy = hashes(tensors, said)
    return said | spec | {"modelspec.hash_sha256": f"0x{whole}", "sshs_model_hash": whole, "sshs_legacy_hash": legacy}


def hashes(tensors: Mapping[str, Tensor], said: Mapping[str, str]) -> tuple[str, str]:
    """Equations (2) and (3), of a file with these tensors and `ss_` entries."""
    data = save({k: v.detach().contiguous() for k, v in tensors.items()}, {k: v for k, v in said.items() if k.startswith("ss_")})
    begin = 8 + int.from_bytes(data[:8], "little")
    legacy = hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8]
    return hashlib.sha256(memoryview(data)[begin:]).hexdigest(), legacy


def architecture(system: System) -> str:
    """What ModelSpec calls the model; one of ours by its name."""
    kind = family(system)
    if kind == "sd2":  # whose larger one learnt v
        return "stable-diffusion-v2-768-v" if _prediction(system) == "v" else "stable-diffusion-v2-512"
    return ARCHITECTURES.get(kind) or re.sub(r"[^\w.-]+", "-", system.name)


def _prediction(system: System) -> str:
    rule = getattr(system.denoiser.rule, "card", {}).get("name")
    return {"eps": "epsilon", "v": "v"}.get(str(rule), "")


def _spec(system: System, kind: str, title: str, written: str, was: Mapping[str, str]) -> dict[str, str]:
    """What must be said, what should, and what is known besides; the author is nobody's to guess."""
    height, width = system.defaults.size
    paths = FORMATS[written].paths.get(kind, FORMATS[written].usual) if kind else OURS
    code = "diffusers" if paths == DIFFUSERS else PUBLISHERS.get(kind, STABILITY if kind else "reverie")
    told = _prediction(system) if isinstance(getattr(system.denoiser.net, "config", None), UNetConfig) else ""
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture(system)}/lora",
        "modelspec.implementation": "reverie" if paths == OURS else code,
        "modelspec.title": was.get("modelspec.title", title),
        "modelspec.resolution": f"{width}x{height}",
        "modelspec.description": was.get("modelspec.description", f"low-rank changes of {system.name}"),
        "modelspec.date": was.get("modelspec.date", datetime.now(UTC).isoformat(timespec="seconds")),
        **({"modelspec.prediction_type": told} if told else {}),
    }


def _ours(tensors: Mapping[str, Tensor], system: System, kind: str, title: str) -> dict[str, Any]:
    """The `ss_` entries that hold of any file."""
    height, width = system.defaults.size
    ranks = Counter(len(v) for k, v in tensors.items() if k.endswith(("lora_down.weight", "lora_A.weight", "hada_w1_b")))
    alphas = Counter(float(v) for k, v in tensors.items() if k.endswith(".alpha") and v.numel() == 1)
    plain = all(re.search(r"lora_(up|down|A|B)\.weight$|\.alpha$", k) for k in tensors)
    return {
        "base_model_version": BASES.get(kind, system.name),
        "v2": str(kind == "sd2"),
        "network_module": "networks.lora" if plain else "lycoris.kohya",
        "network_dim": ranks.most_common(1)[0][0] if ranks else "Dynamic",
        "network_alpha": alphas.most_common(1)[0][0] if alphas else "Dynamic",
        "network_args": {},
        "output_name": title,
        "sd_model_name": system.name,
        **({"new_sd_model_hash": system.hash, "sd_model_hash": system.hash[:8]} if system.hash else {}),
        "resolution": f"({width}, {height})",
    }


def unplaced(value: Any) -> Any:
    """What a file says, with the last name alone of what looks like a place on a machine."""
    if isinstance(value, Mapping):
        return {k: unplaced(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [unplaced(v) for v in value]
    if isinstance(value, str) and PATH.search(value):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
