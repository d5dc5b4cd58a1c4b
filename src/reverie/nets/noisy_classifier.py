"""The classifier of noised pictures, whose gradient guides a net (Dhariwal & Nichol, arXiv:2105.05233, section 4).

The way down of a U-Net, told the time; then a token that is the mean of all places looks at them and at itself, once, and says the
class (the attention pooling of Radford et al., arXiv:2103.00020). The places are told apart by learnt positions, so that it
reads pictures of one size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reverie.nets.blocks import attend, expect, rows
from reverie.nets.norm import GroupNorm
from reverie.nets.precision import Linear
from reverie.nets.unet import Descent, UNetConfig


@dataclass(frozen=True, kw_only=True)
class NoisyClassifierConfig:
    """The shape of a `NoisyClassifier`. body: of its way down. size: side of the pictures. classes: how many it tells apart."""

    body: UNetConfig
    size: int
    classes: int = 1000

    @property
    def places(self) -> int:
        """Height and width of what is left at the bottom."""
        return self.size // self.body.multiple


class AttentionPool(nn.Module):
    """(B, C, H, W) -> (B, out): the mean of the places, and what it sees there."""

    def __init__(self, channels: int, places: int, heads: int, out: int) -> None:
        super().__init__()
        self.heads = heads
        self.positions = nn.Parameter(torch.randn(channels, places * places + 1) / channels**0.5)  # first that of the mean
        self.q, self.k, self.v = (Linear(channels, channels) for _ in range(3))
        self.out = Linear(channels, out)

    def forward(self, x: Tensor) -> Tensor:
        h = rows(x)
        h = torch.cat((h.mean(1, keepdim=True), h), 1) + self.positions.T.to(h.dtype)  # (B, 1 + H W, C)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (self.q(h[:, :1]), self.k(h), self.v(h)))
        out: Tensor = self.out(attend(q, k, v).transpose(1, 2).flatten(2))
        return out[:, 0]


class NoisyClassifier(nn.Module):
    """net(x, t): x (B, C, size, size), t (B,) -> logits (B, classes)."""

    def __init__(self, config: NoisyClassifierConfig) -> None:
        super().__init__()
        self.config = c = config
        width = c.body.widths[-1]
        self.body = Descent(c.body)
        self.norm = GroupNorm(width, c.body.groups, eps=c.body.eps, silu=True)
        self.pool = AttentionPool(width, c.places, c.body.heads_of(width), c.classes)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        expect("x", x, None, self.config.body.in_channels, self.config.size, self.config.size)
        out: Tensor = self.pool(self.norm(self.body(x, t)))
        return out
