"""A small text encoder.

A bidirectional transformer (Vaswani et al., arXiv:1706.03762) with the norm before each block (Xiong et al.,
arXiv:2002.04745) and learned positions: token ids go in, one vector per token and one for the whole text come out. Both
are what the denoising nets take as `tokens` and `vector`. Padding is masked: it changes nothing.

A small encoder trained on little learns slowly which adjective belongs to which noun; a convolution over neighbouring words
before the transformer (as in Wu et al., "Pay less attention", arXiv:1901.10430, words near each other are mixed first) tells it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.blocks import Attention, expect


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """vocabulary: number of token ids. width, depth, heads: of the transformer. length: the most tokens it reads.
    kernel: words that the first convolution sees, odd; 0 for none."""

    vocabulary: int = 4096
    width: int = 192
    depth: int = 4
    heads: int = 4
    length: int = 24
    kernel: int = 0


class TextBlock(nn.Module):
    """Self-attention and a GELU MLP, each after a layer norm and with a residual: (B, L, D) -> (B, L, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.attention(self.norm1(x), None, mask)
        out: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return out


class TextTransformer(nn.Module):
    """ids (B, L) int64, mask (B, L) bool, True = real -> tokens (B, L, width), pooled (B, width), their masked mean."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = c = config
        self.words = nn.Embedding(c.vocabulary, c.width)
        self.positions = nn.Parameter(torch.randn(c.length, c.width) * 0.02)
        self.near = nn.Conv1d(c.width, c.width, c.kernel, padding=c.kernel // 2) if c.kernel else None
        self.blocks = nn.ModuleList(TextBlock(c.width, c.heads) for _ in range(c.depth))
        self.norm = nn.LayerNorm(c.width)
        nn.init.normal_(self.words.weight, std=0.02)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self._check(ids, mask)
        x = self.words(ids)  # (B, L, D)
        if self.near is not None:
            there = x if mask is None else x * mask[..., None]
            x = x + F.gelu(self.near(there.mT).mT)
        x = x + self.positions[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        if mask is None:
            return x, x.mean(1)
        keep = mask[..., None].to(x.dtype)
        return x, (x * keep).sum(1) / keep.sum(1).clamp_min(1)

    def _check(self, ids: Tensor, mask: Tensor | None) -> None:
        expect("ids", ids, None, None)
        if ids.shape[1] > self.config.length:
            raise ValueError(f"ids: expected at most {self.config.length} tokens, got {ids.shape[1]}")
        if mask is not None:
            expect("mask", mask, *ids.shape)
