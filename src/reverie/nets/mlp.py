"""A denoiser for points.

A residual multilayer perceptron for data of a few dimensions (the time embedding as in Ho et al., arXiv:2006.11239). Two
choices matter more than they look: Kaiming initialisation (He et al., arXiv:1502.01852), for with PyTorch's default such a
net can stay Gaussian for thousands of steps while its loss looks healthy, and a last layer that starts at zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.blocks import TimeEmbedding, expect, mlp, zeroed


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """dim: of a point. width, depth: of the residual blocks. vector_dim: width of the vector, None for no vector."""

    dim: int = 2
    width: int = 128
    depth: int = 3
    vector_dim: int | None = None


class MLPBlock(nn.Module):
    """x + Linear(SiLU(Linear(SiLU(x)) + Linear(emb))), (B, width) -> (B, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.emb, self.up, self.down = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        out: Tensor = x + self.down(F.silu(self.up(F.silu(x)) + self.emb(emb)))
        return out


class MLP(nn.Module):
    """net(x, t, vector=): x (B, dim), t (B,) -> (B, dim)."""

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.config = c = config
        self.time = TimeEmbedding(c.width, c.width)
        self.vector = None if c.vector_dim is None else mlp(c.vector_dim, c.width, c.width)
        self.stem = nn.Linear(c.dim, c.width)
        self.blocks = nn.ModuleList(MLPBlock(c.width) for _ in range(c.depth))
        self.head = nn.Linear(c.width, c.dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)
        zeroed(self.head)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        vector: Tensor | None = None,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        residuals: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """tokens, mask and residuals must be None: there is nothing here to take them."""
        expect("x", x, None, self.config.dim)
        expect("t", t, x.shape[0], *t.shape[1:])  # one clock, or several
        if tokens is not None or mask is not None or residuals is not None:
            raise ValueError("tokens, mask, residuals: a net of points takes none of them")
        emb = self.time(t)
        if vector is not None:
            if self.vector is None:
                raise ValueError("vector: this net takes none (vector_dim is None)")
            expect("vector", vector, x.shape[0], self.config.vector_dim)
            emb = emb + self.vector(vector)
        emb, h = F.silu(emb), self.stem(x)
        for block in self.blocks:
            h = block(h, emb)
        out: Tensor = self.head(F.silu(h))
        return out
