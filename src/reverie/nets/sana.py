"""Sana: a transformer whose self-attention costs no more per token in a large picture than in a small one.

Xie et al., "SANA: efficient high-resolution image synthesis with linear diffusion transformers", arXiv:2410.10629. With
rho = ReLU, the answer to a query is

    y_i = (sum_j v_j rho(k_j)^T) rho(q_i) / (sum_j rho(k_j)^T rho(q_i)),                                              (1)

and the two sums over all tokens j are the same for every i. What locality and position need comes from the feed-forward, which
mixes neighbours by a convolution of 3x3 in each channel; there are no positions beside it, but in the nets for 2K and 4K:

    (a, b) = Conv3x3(SiLU(W_up x)),   MixFFN(x) = W_down (a SiLU(b)).                                                 (2)

The blocks are otherwise those of `pixart`; the caption's tokens are normed. Sana 1.5 (arXiv:2501.18427) norms queries and keys.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.blocks import attend, rows, zeroed
from reverie.nets.dit import modulate, plain_norm, positions
from reverie.nets.looking import added, attended, check_residuals, last, layered
from reverie.nets.mmdit_blocks import RMSNorm
from reverie.nets.precision import Linear, inside
from reverie.nets.single import SingleAdapt, SingleHead, begin, caption_layers, check_inputs, table


@dataclass(frozen=True, kw_only=True)
class SanaConfig:
    """The shape of a `Sana`.

    in_channels: of the latent. patch: pixels of a patch, each way. width, depth: of the transformer. heads: of the linear
    self-attention. cross_heads: of the attention to the caption. mlp_ratio: hidden over width. context_dim: width of the tokens.
    qk_norm: queries and keys are normed, over all heads together. span: None for no positions, else they lie in [0, span).
    """

    in_channels: int = 32
    patch: int = 1
    width: int = 2240
    depth: int = 20
    heads: int = 70
    cross_heads: int = 20
    mlp_ratio: float = 2.5
    context_dim: int = 2304
    qk_norm: bool = False
    span: float | None = None

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % self.cross_heads:
            raise ValueError(f"a width of {self.width} cannot be split into {self.heads} and {self.cross_heads} heads")

    @property
    def multiple(self) -> int:
        """Height and width of the latent are multiples of this."""
        return self.patch


SANA_16B = SanaConfig()
SANA_06B = replace(SANA_16B, width=1152, depth=28, heads=36, cross_heads=16)
SANA15_16B = replace(SANA_16B, qk_norm=True)
SANA15_48B = replace(SANA15_16B, depth=60)


class SanaAttention(nn.Module):
    """Attention of x (B, L, D) to itself by equation (1), or to a caption (B, M, D) with mask (B, M) by a softmax."""

    def __init__(self, width: int, heads: int, *, bias: bool, norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (Linear(width, width, bias=bias) for _ in range(3))
        self.norm_q, self.norm_k = (RMSNorm(width, eps=1e-5) if norm else nn.Identity() for _ in range(2))
        self.out = Linear(width, width)

    def forward(self, x: Tensor, caption: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        source = x if caption is None else caption
        parts = (self.norm_q(self.q(x)), self.norm_k(self.k(source)), self.v(source))
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in parts)  # (B, heads, L, E)
        if caption is None:
            y = attended(linear, q, k, v, None, "self", softmax=False)
        else:
            y = attend(q, k, v, None if mask is None else mask[:, None, None], "cross")
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


def linear(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Equation (1) for (B, heads, L, E); 0 where no key answers. The sums run over all tokens: in float32 at least.

    mask: none, since every key is looked at.
    """
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    with inside(None, q.device):
        p, r, w = F.relu(q).to(wide), F.relu(k).to(wide), v.to(wide)
        y = p @ (r.transpose(-1, -2) @ w)
        total = p @ r.sum(-2)[..., None]
        return (y / (total + 1e-15)).to(v.dtype)


class MixFFN(nn.Module):
    """Equation (2) for x (B, L, D), the tokens of an image of `height` rows."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = Linear(width, 2 * hidden), Linear(hidden, width, bias=False)
        self.mix = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden)

    def forward(self, x: Tensor, height: int) -> Tensor:
        grid = F.silu(self.up(x)).unflatten(1, (height, -1)).permute(0, 3, 1, 2)  # (B, 2 hidden, h, w)
        value, gate = rows(self.mix(grid)).chunk(2, -1)
        out: Tensor = self.down(value * F.silu(gate))
        return out


class SanaBlock(nn.Module):
    """For x (B, L, D), shared (B, 6, D) and caption (B, M, D)."""

    def __init__(self, c: SanaConfig) -> None:
        super().__init__()
        self.table = table(6, c.width)
        self.attention = SanaAttention(c.width, c.heads, bias=False, norm=c.qk_norm)
        self.cross = SanaAttention(c.width, c.cross_heads, bias=True, norm=c.qk_norm)
        self.feed_forward = MixFFN(c.width, int(c.width * c.mlp_ratio))

    def forward(self, x: Tensor, shared: Tensor, caption: Tensor, mask: Tensor | None, height: int) -> Tensor:
        s1, m1, g1, s2, m2, g2 = (self.table + shared).chunk(6, 1)  # (B, 1, D) each
        x = torch.addcmul(x, g1, self.attention(modulate(plain_norm(x), s1, m1)))
        x = x + self.cross(x, caption, mask)
        return torch.addcmul(x, g2, self.feed_forward(modulate(plain_norm(x), s2, m2), height))


class Told(NamedTuple):
    """What is told: the blocks by `shared` (B, 6, D), caption, mask and rows of the picture, the head by the time (B, D)."""

    emb: Tensor
    shared: Tensor
    caption: Tensor
    mask: Tensor | None
    height: int


class SanaBody(nn.Module):
    """All of a `Sana` but its head. depth: how many blocks, None = all of the configuration."""

    def __init__(self, config: SanaConfig, depth: int | None = None) -> None:
        super().__init__()
        self.config = c = config
        self.stem = nn.Conv2d(c.in_channels, c.width, c.patch, stride=c.patch)
        self.adapt = SingleAdapt(c.width)
        self.captions = caption_layers(c.context_dim, c.width)
        self.caption_norm = RMSNorm(c.width, eps=1e-5)
        self.blocks = nn.ModuleList(SanaBlock(c) for _ in range(c.depth if depth is None else depth))

    def entered(
        self, x: Tensor, t: Tensor, *, vector: None = None, tokens: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Told]:
        """The patches (B, L, D), and what is told; vector must be None: nothing but time and caption is."""
        c = self.config
        tokens = check_inputs(x, t, tokens, mask, c.in_channels, c.patch, c.context_dim)
        if vector is not None:
            raise ValueError("vector: this net is told nothing but time and caption")
        h = self.stem(x)  # (B, D, h, w)
        height, width = h.shape[2:]
        h = h.flatten(2).transpose(1, 2)
        if c.span is not None:
            h = h + positions(height, width, c.width, size=c.span, device=x.device).to(h.dtype)
        emb, shared = self.adapt(t)
        return h, Told(emb, shared, self.caption_norm(self.captions(tokens)), mask, height)

    def walk(self, h: Tensor, told: Told, residuals: Sequence[Tensor] | None = None) -> Iterator[Tensor]:
        """h after each block."""
        for block, more in layered(self.blocks, residuals):
            h = added(block(h, *told[1:]), more)
            yield h


class Sana(SanaBody):
    """net(x, t, tokens=, mask=): x (B, C, H, W), t (B,), tokens (B, L, E), mask (B, L) True = real -> (B, C, H, W)."""

    def __init__(self, config: SanaConfig) -> None:
        super().__init__(config)
        c = config
        self.head = SingleHead(c.width, c.patch, c.in_channels)
        begin(self, self.stem, self.adapt)
        zeroed(self.head.linear)
        nn.init.constant_(self.caption_norm.weight, 0.01)  # as published: hidden states of a language model are large
        for block in self.blocks:
            assert isinstance(block, SanaBlock)
            zeroed(block.cross.out)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        vector: None = None,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        residuals: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """vector must be None: nothing but time and caption is told."""
        c = self.config
        h, told = self.entered(x, t, vector=vector, tokens=tokens, mask=mask)
        check_residuals(residuals, c.depth, h.shape[1], c.width)
        h = last(self.walk(h, told, residuals))
        out: Tensor = self.head(h, told.emb, told.height, x.shape[3] // c.patch)
        return out
