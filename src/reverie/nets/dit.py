"""The diffusion transformer.

Peebles & Xie, "Scalable diffusion models with transformers", arXiv:2212.09748: the latent is cut into patches, positions
are fixed sines and cosines, and the conditioning c = time + vector enters each block as a shift, a scale and a gate of
both halves (adaLN-Zero: all six come from a layer that starts at zero, so every block starts as the identity):

    (s1, m1, g1, s2, m2, g2) = W SiLU(c) + b,                                              (1)
    x <- x + g1 Attention((1 + m1) LN(x) + s1),   x <- x + g2 MLP((1 + m2) LN(x) + s2).    (2)

Where tokens are given each block also attends to them between the two, through a projection that starts at zero (Chen
et al., arXiv:2310.00426). A class enters as the vector: a row of a table that lives with the encoders.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.blocks import Attention, TimeEmbedding, check_tokens, expect, mlp, zeroed
from reverie.nets.looking import added, check_residuals, last, layered
from reverie.nets.precision import Linear, exact


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """The shape of a `DiT`.

    in_channels: of the latent, the last `seen` of which are of a picture that is only looked at. size: its height and
    width, for which positions are stored; others are computed at call time. patch: pixels of a patch, each way. width,
    depth, heads: of the transformer. mlp_ratio: hidden over width.
    learn_sigma: twice the channels come out. context_dim: width of the tokens, None for no cross-attention.
    vector_dim: width of the vector, None where it already has the transformer's width. gelu: "tanh" as published, or
    "none" for the exact function, which is quicker on a CPU. time_shift: of the clock's frequencies (`sinusoids`). eps: of
    the norm before the MLP; 1e-6, and 0 for time_shift, as published.
    """

    in_channels: int = 4
    seen: int = 0
    size: int = 32
    patch: int = 2
    width: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    learn_sigma: bool = True
    context_dim: int | None = None
    vector_dim: int | None = None
    gelu: Literal["tanh", "none"] = "tanh"
    time_shift: int = 0
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if not 0 <= self.seen < self.in_channels:
            raise ValueError(f"seen must leave channels to draw: got {self.seen} of {self.in_channels}")
        if self.size % self.patch or self.width % 4:
            raise ValueError(
                f"size must be a multiple of patch, and width of 4: got size {self.size}, patch {self.patch}, width {self.width}"
            )

    @property
    def multiple(self) -> int:
        """Height and width of the latent are multiples of this."""
        return self.patch

    @property
    def out_channels(self) -> int:
        return (self.in_channels - self.seen) * (2 if self.learn_sigma else 1)


DIT_S_2 = DiTConfig()
DIT_S_4 = replace(DIT_S_2, patch=4)
DIT_S_8 = replace(DIT_S_2, patch=8)
DIT_B_2 = DiTConfig(width=768, depth=12, heads=12)
DIT_B_4 = replace(DIT_B_2, patch=4)
DIT_B_8 = replace(DIT_B_2, patch=8)
DIT_L_2 = DiTConfig(width=1024, depth=24, heads=16)
DIT_L_4 = replace(DIT_L_2, patch=4)
DIT_L_8 = replace(DIT_L_2, patch=8)
DIT_XL_2 = DiTConfig(width=1152, depth=28, heads=16)
DIT_XL_4 = replace(DIT_XL_2, patch=4)
DIT_XL_8 = replace(DIT_XL_2, patch=8)


def positions(height: int, width: int, dim: int, *, size: float, device: torch.device | None = None) -> Tensor:
    """Fixed 2-D positions (1, height * width, dim): a quarter each of sin x, cos x, sin y, cos y.

    The grid always spans [0, size): another number of rows or columns lies between the same coordinates.
    """
    quarter = dim // 4
    at = exact(device)
    omega = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64, device=at) / quarter)
    y, x = (torch.arange(n, dtype=torch.float64, device=at) * (size / n) for n in (height, width))
    ax, ay = x[:, None] * omega, y[:, None] * omega  # (width, quarter), (height, quarter)
    ex = torch.cat((ax.sin(), ax.cos()), 1)[None].expand(height, -1, -1)
    ey = torch.cat((ay.sin(), ay.cos()), 1)[:, None].expand(-1, width, -1)
    return torch.cat((ex, ey), 2).reshape(1, height * width, dim).float().to(device)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """(1 + scale) x + shift, for x (B, L, D), shift and scale (B, 1, D)."""
    return torch.addcmul(shift, x, 1 + scale)


def plain_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """The layer norm of x (..., D) without weights of its own."""
    return F.layer_norm(x, x.shape[-1:], eps=eps)


def unpatched(y: Tensor, rows: int, columns: int, patch: int) -> Tensor:
    """Tokens (B, rows * columns, patch * patch * C), row by row, as the image (B, C, rows * patch, columns * patch)."""
    y = y.unflatten(2, (patch, patch, -1)).unflatten(1, (rows, columns)).permute(0, 5, 1, 3, 2, 4)
    return y.flatten(4, 5).flatten(2, 3)


class DiTBlock(nn.Module):
    """Equation (2), for x (B, L, D) and the activated conditioning c (B, D)."""

    def __init__(self, c: DiTConfig) -> None:
        super().__init__()
        self.gelu, self.eps = c.gelu, c.eps
        self.attention = Attention(c.width, c.heads)
        self.cross = None if c.context_dim is None else Attention(c.width, c.heads, c.context_dim, zero=True)
        self._make_mlp(c)
        self.adapt = nn.Linear(c.width, 6 * c.width)

    def _make_mlp(self, c: DiTConfig) -> None:
        hidden = int(c.width * c.mlp_ratio)
        self.up, self.down = Linear(c.width, hidden), Linear(hidden, c.width)

    def _mlp(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.gelu(self.up(x), approximate=self.gelu))
        return out

    def forward(self, x: Tensor, c: Tensor, tokens: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        s1, m1, g1, s2, m2, g2 = self.adapt(c)[:, None].chunk(6, -1)  # (B, 1, D) each
        x = torch.addcmul(x, g1, self.attention(modulate(plain_norm(x), s1, m1)))
        if self.cross is not None and tokens is not None:
            x = x + self.cross(x, tokens, mask)
        return torch.addcmul(x, g2, self._mlp(modulate(plain_norm(x, self.eps), s2, m2)))


class Told(NamedTuple):
    """What every block of a `DiT` is told: the activated conditioning (B, D), tokens and their mask."""

    emb: Tensor
    tokens: Tensor | None
    mask: Tensor | None


class DiTBody(nn.Module):
    """All of a `DiT` but its head: what it shares with a control, which walks through some of its blocks (`control_transformer`).

    depth: how many blocks, None = all of the configuration.
    """

    block: type[DiTBlock] = DiTBlock

    def __init__(self, config: DiTConfig, depth: int | None = None) -> None:
        super().__init__()
        self.config = c = config
        self.stem = nn.Conv2d(c.in_channels, c.width, c.patch, stride=c.patch)
        self.time = TimeEmbedding(256, c.width, shift=c.time_shift)
        self.vector = None if c.vector_dim is None else mlp(c.vector_dim, c.width, c.width)
        grid = c.size // c.patch
        self.positions = nn.Parameter(positions(grid, grid, c.width, size=grid), requires_grad=False)
        self.blocks = nn.ModuleList(self.block(c) for _ in range(c.depth if depth is None else depth))

    def entered(
        self, x: Tensor, t: Tensor, *, vector: Tensor | None = None, tokens: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Told]:
        """The patches (B, L, D) with their positions, and what all blocks are told."""
        self._check(x, t, tokens, mask)
        h = self.stem(x)  # (B, D, h, w)
        h = h.flatten(2).transpose(1, 2) + self._positions(*h.shape[2:]).to(h.dtype)
        return h, Told(F.silu(self._embed(t, vector, x.shape[0])), tokens, mask)

    def walk(self, h: Tensor, told: Told, residuals: Sequence[Tensor] | None = None) -> Iterator[Tensor]:
        """h after each block."""
        for block, more in layered(self.blocks, residuals):
            h = added(block(h, *told), more)
            yield h

    def _positions(self, rows: int, columns: int) -> Tensor:
        grid = self.config.size // self.config.patch
        if (rows, columns) == (grid, grid):
            return self.positions
        return positions(rows, columns, self.config.width, size=grid, device=self.positions.device)

    def _embed(self, t: Tensor, vector: Tensor | None, batch: int) -> Tensor:
        emb: Tensor = self.time(t)  # (B, D)
        if vector is None:
            return emb
        expect("vector", vector, batch, self.config.vector_dim or self.config.width)
        return emb + (vector if self.vector is None else self.vector(vector))

    def _check(self, x: Tensor, t: Tensor, tokens: Tensor | None, mask: Tensor | None) -> None:
        c = self.config
        expect("x", x, None, c.in_channels, None, None)
        expect("t", t, x.shape[0], *t.shape[1:])  # one clock, or several
        if x.shape[2] % c.patch or x.shape[3] % c.patch:
            raise ValueError(f"x: expected height and width in multiples of {c.patch}, got {tuple(x.shape[2:])}")
        check_tokens(tokens, mask, x.shape[0], c.context_dim)


class DiT(DiTBody):
    """net(x, t, vector=, tokens=, mask=, residuals=): x (B, C, H, W), t (B,) -> (B, out_channels, H, W)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config)
        c = config
        self.adapt = nn.Linear(c.width, 2 * c.width)
        self.head = Linear(c.width, c.patch**2 * c.out_channels)
        self._init()

    def _init(self) -> None:
        """Xavier for every linear layer, then zero for all that must start silent."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.stem.weight.view(self.config.width, -1))
        nn.init.zeros_(self.stem.bias)  # type: ignore[arg-type]
        for p in self.time.parameters():
            nn.init.normal_(p, std=0.02 if p.ndim > 1 else 0.0)
        for block in self.blocks:
            assert isinstance(block, DiTBlock)
            zeroed(block.adapt)
            if block.cross is not None:
                zeroed(block.cross.out)
        zeroed(self.adapt)
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
        """residuals: tensors (B, L, D) to add to the L patches after each block, at most one per block (arXiv:2401.05252)."""
        c = self.config
        h, told = self.entered(x, t, vector=vector, tokens=tokens, mask=mask)
        check_residuals(residuals, c.depth, h.shape[1], c.width)
        h = last(self.walk(h, told, residuals))
        shift, scale = self.adapt(told.emb)[:, None].chunk(2, -1)
        y = self.head(modulate(plain_norm(h), shift, scale))  # (B, L, p p out)
        return unpatched(y, x.shape[2] // c.patch, x.shape[3] // c.patch, c.patch)
