"""What the captioned transformers PixArt and Sana share.

Chen et al., "PixArt-alpha", arXiv:2310.00426, section 2.3, adaLN-single: one layer makes shifts, scales and gates from the time
for all blocks, and a block b adds a table of its own; the layer norm before the head has a smaller table:

    (s1, m1, g1, s2, m2, g2) = W SiLU(c) + w + T_b,   (s, m) = (c, c) + T,   c the embedded time.                     (1)

The tokens of the caption enter through two linear layers with a tanh GELU between them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.blocks import TimeEmbedding, check_tokens, expect, zeroed
from reverie.nets.dit import modulate, plain_norm, unpatched
from reverie.nets.precision import Linear


def table(rows: int, width: int) -> nn.Parameter:
    """T of equation (1), (rows, width)."""
    return nn.Parameter(torch.randn(rows, width) / width**0.5)


def caption_layers(context_dim: int, width: int) -> nn.Sequential:
    """Tokens (B, L, context_dim) -> (B, L, width)."""
    return nn.Sequential(Linear(context_dim, width), nn.GELU("tanh"), Linear(width, width))


class SingleAdapt(nn.Module):
    """c and what all blocks share of equation (1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.time = TimeEmbedding(256, width)
        self.shared = nn.Linear(width, 6 * width)

    def forward(self, t: Tensor, more: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """t (B,), and `more` (B, width) to add to its embedding -> c (B, width) and (B, 6, width)."""
        c: Tensor = self.time(t)
        c = c if more is None else c + more
        return c, self.shared(F.silu(c)).unflatten(1, (6, -1))


class SingleHead(nn.Module):
    """Norm, head and pixels: (B, rows * columns, width) and c (B, width) -> (B, channels, H, W)."""

    def __init__(self, width: int, patch: int, channels: int) -> None:
        super().__init__()
        self.patch = patch
        self.table = table(2, width)
        self.linear = zeroed(Linear(width, patch * patch * channels))

    def forward(self, h: Tensor, c: Tensor, rows: int, columns: int) -> Tensor:
        shift, scale = (self.table + c[:, None]).chunk(2, 1)  # (B, 1, width) each
        return unpatched(self.linear(modulate(plain_norm(h), shift, scale)), rows, columns, self.patch)


def begin(net: nn.Module, stem: nn.Conv2d, adapt: SingleAdapt) -> None:
    """First weights of all linear layers as published; what must be silent is zeroed by the net itself, afterwards."""
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.xavier_uniform_(stem.weight.view(stem.out_channels, -1))
    for part in (adapt.time.mlp[0], adapt.time.mlp[2], adapt.shared):
        assert isinstance(part, nn.Linear)
        nn.init.normal_(part.weight, std=0.02)


def check_inputs(x: Tensor, t: Tensor, tokens: Tensor | None, mask: Tensor | None, channels: int, patch: int, dim: int) -> Tensor:
    """The tokens, which a captioned net cannot do without. ValueError where an input has not the shape it needs."""
    expect("x", x, None, channels, None, None)
    expect("t", t, x.shape[0], *t.shape[1:])  # one clock, or several
    if x.shape[2] % patch or x.shape[3] % patch:
        raise ValueError(f"x: expected height and width in multiples of {patch}, got {tuple(x.shape[2:])}")
    if tokens is None:
        raise ValueError("tokens: this net needs a caption; the empty one has tokens too")
    check_tokens(tokens, mask, x.shape[0], dim)
    return tokens
