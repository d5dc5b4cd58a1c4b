"""The models that come with the package."""

from pathlib import Path

import torch

from reverie.errors import UserError, nearest
from reverie.systems.system import System
from reverie.systems.weights import load

FOLDER = Path(__file__).parent
SHIPPED = {"reverie-avatars": FOLDER / "avatars" / "reverie-avatars.safetensors"}


def open_model(name: str) -> System:
    """A shipped model by name, or a file by path; in bf16 inside the net, where the CPU computes in it."""
    if name in SHIPPED:
        return quick(load(SHIPPED[name]))
    path = Path(name)
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.suffix and not path.exists():
        raise UserError(f"no model is called '{name}', and no such file exists.{nearest(name, SHIPPED)}")
    return quick(load(path))


def quick(system: System) -> System:
    """The same system as it runs fastest here: channels innermost, and bf16 inside the nets where the CPU computes in it."""
    bf16 = torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else None
    for part in (system.denoiser, system.codec):
        if isinstance(part, torch.nn.Module):
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            part.autocast = bf16
    return system
