"""The parts the backbones share.

A clock value t becomes a vector through sinusoids of geometric frequencies (Vaswani et al., arXiv:1706.03762, as used
for diffusion by Ho et al., arXiv:2006.11239):

    w_k = P^(-k / (h - s)),  k = 0..h-1,  h = dim / 2,   e(t) = [cos(w t), sin(w t)] or [sin(w t), cos(w t)],      (1)

with P the longest period and s the frequency shift (0 in most code; 1, with sine first, in the first DDPM code), or by
random Fourier features (Tancik et al., arXiv:2006.10739). Residual blocks receive it by addition or as the scale and
shift of their second norm (Dhariwal & Nichol, arXiv:2105.05233). Attention is over rows (B, L, D). Blocks marked `zero`
begin as the identity: their last layer starts at zero.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.looking import Kind, attended
from reverie.nets.norm import GroupNorm
from reverie.nets.precision import Linear

M = TypeVar("M", bound=nn.Module)


def zeroed(module: M, zero: bool = True) -> M:
    """The module, its parameters set to zero where `zero` is set."""
    if zero:
        for p in module.parameters():
            nn.init.zeros_(p)
    return module


def expect(what: str, x: Tensor, *shape: int | None) -> None:
    """Raise ValueError unless x has this shape; None stands for any size."""
    if x.ndim != len(shape) or any(n is not None and n != m for n, m in zip(shape, x.shape, strict=True)):
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{what}: expected shape ({wanted}), got {tuple(x.shape)}")


def check_tokens(tokens: Tensor | None, mask: Tensor | None, batch: int, context_dim: int | None) -> None:
    """Raise ValueError unless tokens and mask fit a net of this context width."""
    if tokens is None:
        if mask is not None:
            raise ValueError("mask: given without tokens")
        return
    if context_dim is None:
        raise ValueError("tokens: this net has no cross-attention (context_dim is None)")
    expect("tokens", tokens, batch, None, context_dim)
    if mask is not None:
        expect("mask", mask, batch, tokens.shape[1])
        if mask.dtype != torch.bool:
            raise ValueError(f"mask: expected bool, True = real token, got {mask.dtype}")


def sinusoids(t: Tensor, dim: int, *, max_period: float = 10000.0, sine_first: bool = False, shift: int = 0) -> Tensor:
    """Equation (1): t (B,) -> (B, dim), float32. dim must be even."""
    if dim % 2:
        raise ValueError(f"a sinusoidal embedding needs an even width, got {dim}")
    half = dim // 2
    k = torch.arange(half, dtype=torch.float32, device=t.device)
    angle = t.float()[:, None] * torch.exp(k * (-math.log(max_period) / (half - shift)))  # (B, half)
    pair = (angle.sin(), angle.cos()) if sine_first else (angle.cos(), angle.sin())
    return torch.cat(pair, 1)


class TimeEmbedding(nn.Module):
    """t (B,) -> (B, out): sinusoids of width `dim`, then a two-layer MLP."""

    def __init__(self, dim: int, out: int, *, max_period: float = 10000.0, sine_first: bool = False, shift: int = 0) -> None:
        super().__init__()
        self.dim, self.max_period, self.sine_first, self.shift = dim, max_period, sine_first, shift
        self.mlp = mlp(dim, out, out)

    def forward(self, t: Tensor) -> Tensor:
        if t.ndim != 1:
            raise ValueError(f"t: expected one clock value per sample, shape (B,), got {tuple(t.shape)}")
        e = sinusoids(t, self.dim, max_period=self.max_period, sine_first=self.sine_first, shift=self.shift)
        out: Tensor = self.mlp(e.to(next(self.mlp.parameters()).dtype))
        return out


class FourierEmbedding(nn.Module):
    """t (B,) -> (B, dim): cosines and sines of frozen Gaussian frequencies."""

    frequencies: Tensor

    def __init__(self, dim: int, *, scale: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(dim // 2) * scale)

    def forward(self, t: Tensor) -> Tensor:
        angle = 2 * math.pi * t.float()[:, None] * self.frequencies.float()
        return torch.cat((angle.cos(), angle.sin()), 1)


def mlp(dim: int, hidden: int, out: int) -> nn.Sequential:
    """Linear, SiLU, Linear."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.SiLU(), nn.Linear(hidden, out))


def halved(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, H/2, W/2): the average of each four pixels."""
    return F.avg_pool2d(x, 2)


def doubled(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2H, 2W): each pixel four times."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class ResBlock(nn.Module):
    """Two 3x3 convolutions and a skip, (B, in, H, W) -> (B, out, H, W).

    emb: width of the (already activated) time embedding, None for a block without one. scale_shift: the embedding
    scales and shifts the second norm, rather than being added before it. resize: `halved` or `doubled`, done to both ways
    before the first convolution (Brock et al., arXiv:1809.11096); None keeps the size.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        emb: int | None = None,
        *,
        groups: int = 32,
        eps: float = 1e-5,
        dropout: float = 0.0,
        scale_shift: bool = False,
        resize: Callable[[Tensor], Tensor] | None = None,
        zero: bool = True,
    ) -> None:
        super().__init__()
        self.scale_shift, self.resize = scale_shift, resize
        self.norm1 = GroupNorm(channels, groups, eps=eps, silu=True)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.emb = None if emb is None else nn.Linear(emb, out * (2 if scale_shift else 1))
        self.norm2 = GroupNorm(out, groups, eps=eps, silu=not scale_shift)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(out, out, 3, padding=1), zero)
        self.skip = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        h = self.norm1(x)
        if self.resize is not None:
            x, h = self.resize(x), self.resize(h)
        h = self.conv1(h)  # (B, out, H, W)
        if self.emb is None or emb is None:
            h = self.norm2(h)
        elif self.scale_shift:
            scale, shift = self.emb(emb).to(h.dtype)[:, :, None, None].chunk(2, 1)
            h = F.silu(torch.addcmul(shift, self.norm2(h), 1 + scale))
        else:
            h = self.norm2(h + self.emb(emb).to(h.dtype)[:, :, None, None])
        out: Tensor = self.skip(x) + self.conv2(self.dropout(h))
        return out


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, kind: Kind = "self", text: int = 0) -> Tensor:
    """Attention of q (B, heads, L, E) to k and v (B, heads, M, E); mask broadcasts to (B, heads, L, M), True = look.

    Where nothing may be looked at the answer is 0. kind, text: as of `Site`, for those who look in.
    """
    return attended(_attend, q, k, v, mask, kind, text)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Small tables on a CPU are multiplied out: the fused kernel's backward pass is several times slower there."""
    small = q.device.type == "cpu" and q.shape[-2] * k.shape[-2] <= SMALL and torch.is_grad_enabled()
    if small and not torch.compiler.is_compiling():
        weight = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if mask is not None:
            weight = weight.masked_fill(~mask, torch.finfo(weight.dtype).min)
        y = weight.softmax(-1, dtype=torch.float32).to(v.dtype) @ v
    else:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return y if mask is None else y.masked_fill(~mask.any(-1, keepdim=True), 0)


SMALL = 256 * 256
"""Entries of an attention table up to which a CPU multiplies it out when gradients are wanted."""


class Attention(nn.Module):
    """Multi-head attention of x (B, L, dim) to itself, or to context (B, M, context_dim) with mask (B, M), True = real.

    A sample whose mask has no real token receives only the bias of the output projection.
    """

    def __init__(self, dim: int, heads: int, context_dim: int | None = None, *, bias: bool = True, zero: bool = False) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"a width of {dim} cannot be split into {heads} heads")
        self.heads = heads
        self.q = Linear(dim, dim, bias=bias)
        self.k = Linear(context_dim or dim, dim, bias=bias)
        self.v = Linear(context_dim or dim, dim, bias=bias)
        self.out = zeroed(Linear(dim, dim), zero)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        kind: Kind = "self" if context is None else "cross"
        context = x if context is None else context
        q, k, v = (self._split(y) for y in (self.q(x), self.k(context), self.v(context)))  # (B, heads, L, width)
        y = attend(q, k, v, None if mask is None else mask[:, None, None, :], kind)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def rows(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H W, C); free for channels_last images."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def image(x: Tensor, like: Tensor) -> Tensor:
    """(B, H W, C) -> (B, C, H, W), channels_last, the height and width those of `like`."""
    return x.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)


class SpatialAttention(nn.Module):
    """Norm, self-attention over the H W pixels, residual: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, heads: int = 1, *, groups: int = 32, eps: float = 1e-5, zero: bool = True) -> None:
        super().__init__()
        self.norm = GroupNorm(channels, groups, eps=eps)
        self.attention = Attention(channels, heads, zero=zero)

    def forward(self, x: Tensor, tokens: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """tokens and mask are not looked at: there is no cross-attention here."""
        return x + image(self.attention(rows(self.norm(x))), x)


class GatedFeedForward(nn.Module):
    """Linear, GELU gate, Linear (Shazeer, arXiv:2002.05202), (B, L, dim) -> (B, L, dim)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.up = Linear(dim, 2 * hidden)
        self.down = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.up(x).chunk(2, -1)
        out: Tensor = self.down(value * F.gelu(gate))
        return out


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to tokens, feed-forward, each after a layer norm and with a residual."""

    def __init__(self, dim: int, heads: int, context_dim: int) -> None:
        super().__init__()
        self.norm1, self.self_attention = nn.LayerNorm(dim), Attention(dim, heads, bias=False)
        self.norm2, self.cross_attention = nn.LayerNorm(dim), Attention(dim, heads, context_dim, bias=False)
        self.norm3, self.feed_forward = nn.LayerNorm(dim), GatedFeedForward(dim, 4 * dim)

    def forward(self, x: Tensor, tokens: Tensor | None, mask: Tensor | None = None) -> Tensor:
        x = x + self.self_attention(self.norm1(x))
        if tokens is not None:
            x = x + self.cross_attention(self.norm2(x), tokens, mask)
        out: Tensor = x + self.feed_forward(self.norm3(x))
        return out


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of (B, C, H, W), attending to tokens (B, L, context_dim); arXiv:2112.10752."""

    def __init__(self, channels: int, heads: int, context_dim: int, depth: int = 1, *, groups: int = 32, zero: bool = True) -> None:
        super().__init__()
        self.norm = GroupNorm(channels, groups, eps=1e-6)
        self.enter = Linear(channels, channels)
        self.blocks = nn.ModuleList(TransformerBlock(channels, heads, context_dim) for _ in range(depth))
        self.leave = zeroed(Linear(channels, channels), zero)

    def forward(self, x: Tensor, tokens: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        h = self.enter(rows(self.norm(x)))  # (B, H W, C)
        for block in self.blocks:
            h = block(h, tokens, mask)
        return x + image(self.leave(h), x)


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2. asymmetric: pad right and below only, as DDPM and the LDM autoencoder do."""

    def __init__(self, channels: int, *, asymmetric: bool = False) -> None:
        super().__init__()
        self.asymmetric = asymmetric
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if asymmetric else 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)) if self.asymmetric else x)
        return out


class Upsample(nn.Module):
    """Nearest neighbour to twice the size, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(doubled(x))
        return out
