"""Group normalisation, with SiLU folded in, in the memory layout the convolutions like.

Wu & He, "Group normalization", arXiv:1803.08494. For a group of channels with mean m and variance v over its pixels,

    y = w (x - m) / sqrt(v + eps) + b = scale x + shift,                                    (1)

one multiply-add per element once the two numbers per sample and channel are known. With g = dL/dy, xhat = (x - m) r,
r = 1/sqrt(v + eps), and <.> the mean over a group, the gradient is as cheap:

    dL/dx = r (w g - <w g> - xhat <w g xhat>) = scale g + c1 + c2 x.                        (2)

On a CPU, convolutions are quickest on channels_last tensors. There PyTorch's own kernel is slow to differentiate in bfloat16,
and from 32x32 pixels on it adds up in an order that depends on the batch and the threads, so that a sample would not be the
same alone and among others. `group_norm` therefore takes (1) and (2) literally in these cases, with statistics in float32
whatever the type of x, and calls PyTorch's kernel everywhere else.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

ORDERLY = 1024
"""Pixels below which PyTorch's kernel adds up a sample of channels_last images in one order."""
PIECE = 1 << 17
"""Elements that are summed at a time: so many stay in a core's cache."""


class Fused(torch.autograd.Function):
    """Group norm and, where `silu`, SiLU, of a channels_last image on the CPU; both modes of autograd."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> tuple[Tensor, ...]:
        mean, rstd = _moments(x, groups, eps)
        y = _affine(x, weight, bias, mean, rstd)
        return (F.silu(y, inplace=True) if silu else y), mean, rstd

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, bias, groups, eps, silu = inputs
        ctx.settings = groups, eps, silu
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(x, weight, bias, *output[1:])
        ctx.save_for_forward(x, weight, bias, *output[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        groups, eps, silu = ctx.settings
        if torch.is_grad_enabled():  # someone wants the gradient of this gradient: the statistics depend on x
            mean, rstd = _moments(x, groups, eps)
        g = grads[0].contiguous(memory_format=torch.channels_last)
        if silu:
            g = _silu_gradient(g, _affine(x, weight, bias, mean, rstd))
        sum_g, sum_gx = _sum(g), _sum(g * x)  # (B, C)
        sum_gh = rstd * (sum_gx - mean * sum_g)  # sum of g xhat
        n = x.shape[2] * x.shape[3] * (x.shape[1] // groups)
        a, b = _group_sum(sum_g * weight, groups) / n, _group_sum(sum_gh * weight, groups) / n
        c2 = -b * rstd * rstd
        c1 = -a * rstd - c2 * mean
        dx = torch.addcmul(_wide(c1, x), x, _wide(c2, x))
        dx = torch.addcmul(dx, g, _wide(rstd * weight, x))
        return dx, sum_gh.sum(0).to(weight.dtype), sum_g.sum(0).to(bias.dtype), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        groups, _, silu = ctx.settings
        dx, dw, db = (None if v is None else v.float() for v in tangents[:3])
        xhat = (x.float() - mean[..., None, None]) * rstd[..., None, None]
        dy = torch.zeros_like(xhat)
        if dx is not None:
            n = x.shape[2] * x.shape[3] * (x.shape[1] // groups)
            a = _group_sum(dx.sum((2, 3)), groups) / n
            b = _group_sum((dx * xhat).sum((2, 3)), groups) / n
            dy = (dx - a[..., None, None] - xhat * b[..., None, None]) * (rstd * weight)[..., None, None]
        dy = dy + (0 if dw is None else xhat * dw[:, None, None]) + (0 if db is None else db[:, None, None])
        if silu:
            dy = _silu_gradient(dy, xhat * weight[:, None, None] + bias[:, None, None])
        return dy.to(x.dtype), None, None


def _silu_gradient(g: Tensor, y: Tensor) -> Tensor:
    """g times the derivative of SiLU at y."""
    if not torch.is_grad_enabled():
        out: Tensor = torch.ops.aten.silu_backward(g, y)  # one pass, but itself without a derivative
        return out
    gate = torch.sigmoid(y)
    return g * gate * (1 + y * (1 - gate))


def _sum(x: Tensor) -> Tensor:
    """(B, C, H, W) channels_last -> (B, C): the sum over pixels, in float32."""
    return x.permute(0, 2, 3, 1).flatten(1, 2).sum(1).float()


def _group_sum(x: Tensor, groups: int) -> Tensor:
    """(B, C) -> (B, C): every channel gets the sum over its group."""
    b, c = x.shape
    return x.view(b, groups, -1).sum(-1, keepdim=True).expand(b, groups, c // groups).reshape(b, c)


def _moments(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1/std of the group of each channel, (B, C) each, in float32."""
    n = x.shape[2] * x.shape[3] * (x.shape[1] // groups)
    wide = x.float()
    mean = _group_sum(_sum(wide), groups) / n
    square = _group_sum(_sum(wide.square_() if wide is not x else wide.square()), groups) / n
    return mean, torch.rsqrt((square - mean * mean).clamp_min(0) + eps)


def _wide(v: Tensor, x: Tensor) -> Tensor:
    """(B, C) -> (B, C, 1, 1) of the type of x."""
    return v.to(x.dtype)[..., None, None]


def _affine(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """Equation (1)."""
    scale = rstd * weight
    return torch.addcmul(_wide(bias - mean * scale, x), x, _wide(scale, x))


def _plain(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
    y = F.group_norm(x, groups, weight.to(x.dtype), bias.to(x.dtype), eps)
    return F.silu(y) if silu else y


def _drawn(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
    """Equation (1) where nothing is learnt: few passes over x, and little memory.

    The order of sums changes with the batch and the threads; in float64 this is lost when they are rounded to float32.
    """
    b, c, h, w = x.shape
    sums = squares = torch.zeros(b, c, dtype=torch.float64)
    for piece in x.permute(0, 2, 3, 1).flatten(1, 2).split(max(1, PIECE // c), 1):
        wide = piece.double()
        sums, squares = sums + wide.sum(1), squares + wide.square_().sum(1)
    n = h * w * (c // groups)
    mean, square = (v.view(b, groups, -1).sum(-1, keepdim=True) / n for v in (sums, squares))
    mean, rstd = mean.float(), torch.rsqrt((square - mean * mean).clamp_min(0) + eps).float()
    scale = rstd * weight.view(groups, -1)
    shift = bias.view(groups, -1) - mean * scale
    y = torch.addcmul(shift.view(b, c, 1, 1).to(x.dtype), x, scale.view(b, c, 1, 1).to(x.dtype))
    return F.silu(y, inplace=True) if silu else y


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, *, eps: float = 1e-5, silu: bool = False) -> Tensor:
    """Group norm of x (B, C, H, W), followed by SiLU where `silu` is set; by the quickest road for its layout."""
    if not _strided(x) or _kernel_serves(x):
        return _plain(x, weight, bias, groups, eps, silu)
    if not torch.is_grad_enabled():
        return _drawn(x, weight, bias, groups, eps, silu)
    y: Tensor = Fused.apply(x, weight, bias, groups, eps, silu)[0]
    return y


def _kernel_serves(x: Tensor) -> bool:
    """Whether PyTorch's kernel does for channels_last images; its forward mode does not take them."""
    orderly = torch.is_grad_enabled() or x.shape[2] * x.shape[3] < ORDERLY
    return x.dtype == torch.float32 and orderly and forward_ad._current_level < 0


def _strided(x: Tensor) -> bool:
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.ndim != 4 or x.dtype == torch.float64:
        return False
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


class GroupNorm(nn.Module):
    """Group norm over channels, (B, C, H, W) -> (B, C, H, W), with SiLU folded in where `silu` is set."""

    def __init__(self, channels: int, groups: int = 32, *, eps: float = 1e-5, silu: bool = False) -> None:
        super().__init__()
        if channels % groups:
            raise ValueError(f"{channels} channels cannot be split into {groups} groups of equal size")
        self.groups, self.eps, self.silu = groups, eps, silu
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return group_norm(x, self.groups, self.weight, self.bias, eps=self.eps, silu=self.silu)
