"""A small net that enlarges pictures.

Features are computed at the small size and turned into pixels of the large one by a sub-pixel shuffle (Shi et al.,
arXiv:1609.05158), on top of the picture enlarged by repetition. Used behind a diffusion model of small pictures, as the last
stage of a cascade (Ho et al., arXiv:2106.15282).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.blocks import ResBlock
from reverie.nets.norm import GroupNorm


@dataclass(frozen=True, kw_only=True)
class UpsamplerConfig:
    """channels, blocks: of the residual blocks. factor: of enlargement. in_channels: of the picture. groups: of the norms."""

    in_channels: int = 3
    channels: int = 32
    blocks: int = 4
    factor: int = 2
    groups: int = 8


class Upsampler(nn.Module):
    """(B, C, H, W) -> (B, C, factor H, factor W)."""

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__()
        self.config = c = config
        self.stem = nn.Conv2d(c.in_channels, c.channels, 3, padding=1)
        self.body = nn.Sequential(*(ResBlock(c.channels, c.channels, groups=c.groups) for _ in range(c.blocks)))
        self.norm = GroupNorm(c.channels, c.groups, silu=True)
        self.head = nn.Conv2d(c.channels, c.in_channels * c.factor**2, 3, padding=1)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.config.in_channels:
            raise ValueError(f"x: expected (B, {self.config.in_channels}, H, W), got {tuple(x.shape)}")
        fine = F.pixel_shuffle(self.head(self.norm(self.body(self.stem(x)))), self.config.factor)
        out: Tensor = fine + torch.repeat_interleave(torch.repeat_interleave(x, self.config.factor, 2), self.config.factor, 3)
        return out
