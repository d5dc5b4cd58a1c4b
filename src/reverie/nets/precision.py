"""What the inside of a net is computed in; everything around it stays in float32 or wider."""

from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DEEP, FEW, SOME = 512, 768, 64
"""Entries of a row, and rows, at which the CPU's bfloat16 products begin and end to add up in an order of their own; rows enough
for a product of one sample."""


def exact(device: torch.device | None) -> torch.device | None:
    """Where float64 is computed for a device: on itself, or, for Apple's, which has none, on the CPU."""
    return torch.device("cpu") if device is not None and device.type == "mps" else device


def quick_dtype() -> torch.dtype | None:
    """bfloat16 where this CPU computes in it, else None: emulated it would be many times slower."""
    able = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if able else None


def inside(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager[object]:
    """A context in which matrix products and convolutions are computed in `dtype`; None changes nothing."""
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)


def held(net: nn.Module, dtype: torch.dtype | None) -> None:
    """The weights of matrix products and convolutions in `dtype`, as `inside` would cast them at every call, others in float32.

    For use only: what is trained or saved keeps its own. They are copies, so that a file that they were mapped from can go.
    """
    for module in net.modules():
        for value in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            value.data = value.data.to(use(module, value, dtype), copy=True)


def use(module: nn.Module, value: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """The type that a weight of this module is used in."""
    if not value.is_floating_point():
        return value.dtype
    return dtype if dtype is not None and isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) else torch.float32


class Linear(nn.Linear):
    """Of tokens (B, L, D): a sample's sums do not depend on B.

    A deep product of few rows in bfloat16 is added up in another order than one of many, and one bit that turns there is some
    levels in the picture. So samples are multiplied one by one, or, where they are short, together and filled up with zeros; while
    something is learnt they are not.
    """

    def forward(self, x: Tensor) -> Tensor:
        count = x.numel() // self.in_features
        each = count // max(1, len(x))
        if x.ndim < 3 or each >= FEW or self.in_features < DEEP or torch.is_grad_enabled() or not _bf16(x):
            return super().forward(x)
        if each >= SOME:
            return torch.stack([super(Linear, self).forward(sample) for sample in x])
        filled = F.pad(x.reshape(count, -1), (0, 0, 0, max(0, FEW - count)))
        return super().forward(filled)[:count].view(*x.shape[:-1], -1)


def _bf16(x: Tensor) -> bool:
    return x.device.type == "cpu" and (x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu"))
