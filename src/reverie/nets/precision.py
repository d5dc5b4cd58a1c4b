"""What the inside of a net is computed in; everything around it stays in float32 or wider."""

from contextlib import AbstractContextManager

import torch


def quick_dtype() -> torch.dtype | None:
    """bfloat16 where this CPU computes in it, else None: emulated it would be many times slower."""
    able = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if able else None


def inside(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager[object]:
    """A context in which matrix products and convolutions are computed in `dtype`; None changes nothing."""
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)
