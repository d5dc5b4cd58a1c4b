"""A small picture classifier, to judge generated pictures by.

Pre-activation residual blocks (He et al., arXiv:1603.05027) with group norm, halving level by level, an average over what
is left, and one linear head per attribute. Its features, the pooled activations, are those a Frechet distance
(Heusel et al., arXiv:1706.08500) can be taken in when the pictures are too small or too odd for a public network.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.blocks import Downsample, ResBlock, expect
from reverie.nets.norm import GroupNorm


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """The shape of a `Classifier`.

    in_channels: of the picture. channels, mult: width at level i is channels * mult[i], the last being that of the
    features. blocks: residual blocks a level. patch: factor of the pixel-unshuffle stem. heads: name -> classes.
    """

    in_channels: int = 1
    channels: int = 32
    mult: tuple[int, ...] = (1, 2, 4)
    blocks: int = 1
    patch: int = 2
    groups: int = 8
    dropout: float = 0.0
    heads: Mapping[str, int] = field(default_factory=lambda: {"label": 10})

    def __post_init__(self) -> None:
        object.__setattr__(self, "mult", tuple(self.mult))


class Classifier(nn.Module):
    """x (B, C, H, W) -> features (B, F), {head: logits (B, classes)}."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = c = config
        width = [c.channels * m for m in c.mult]
        self.stem = nn.Conv2d(c.in_channels * c.patch**2, width[0], 3, padding=1)
        body: list[nn.Module] = []
        for i, w in enumerate(width):
            body += [ResBlock(width[max(i - 1, 0)] if j == 0 else w, w, groups=c.groups) for j in range(c.blocks)]
            body += [Downsample(w)] if i < len(width) - 1 else []
        self.body = nn.Sequential(*body)
        self.norm = GroupNorm(width[-1], c.groups, silu=True)
        self.dropout = nn.Dropout(c.dropout)
        self.heads = nn.ModuleDict({name: nn.Linear(width[-1], n) for name, n in c.heads.items()})

    def features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, F), float32."""
        p = self.config.patch
        expect("x", x, None, self.config.in_channels, None, None)
        if x.shape[2] % p or x.shape[3] % p:
            raise ValueError(f"x: expected height and width in multiples of {p}, got {tuple(x.shape[2:])}")
        h = self.norm(self.body(self.stem(F.pixel_unshuffle(x, p) if p > 1 else x)))
        return h.mean((2, 3)).float()

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        f = self.features(x)
        return f, {name: head(self.dropout(f)) for name, head in self.heads.items()}
