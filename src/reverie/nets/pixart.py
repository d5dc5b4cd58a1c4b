"""PixArt: a diffusion transformer that reads captions.

Chen et al., "PixArt-alpha: fast training of diffusion transformer for photorealistic text-to-image synthesis", arXiv:2310.00426.
With the six of equation (1) of `single`, a block is

    x <- x + g1 Attention((1 + m1) LN(x) + s1),   x <- x + Cross(x, caption),   x <- x + g2 MLP((1 + m2) LN(x) + s2).  (1)

The larger net is also told the picture's height and width, and their ratio: each number becomes sinusoids and a third of a
vector that is added to the time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.blocks import Attention, TimeEmbedding, expect, zeroed
from reverie.nets.dit import modulate, plain_norm, positions
from reverie.nets.looking import added, check_residuals, last, layered
from reverie.nets.precision import Linear
from reverie.nets.single import SingleAdapt, SingleHead, begin, caption_layers, check_inputs, table


@dataclass(frozen=True, kw_only=True)
class PixArtConfig:
    """The shape of a `PixArt`.

    in_channels: of the latent. span: the positions of any picture lie in [0, span), as those of the smallest picture of the
    family, counted in patches. patch: pixels of a patch, each way. width, depth, heads: of the transformer. mlp_ratio: hidden
    over width. learn_sigma: twice the channels come out. context_dim: width of the tokens. sizes: it is told height, width
    and their ratio.
    """

    in_channels: int = 4
    span: float = 32.0
    patch: int = 2
    width: int = 1152
    depth: int = 28
    heads: int = 16
    mlp_ratio: float = 4.0
    learn_sigma: bool = True
    context_dim: int = 4096
    sizes: bool = False

    def __post_init__(self) -> None:
        if self.width % 4 or (self.sizes and self.width % 3):
            raise ValueError(f"width must be a multiple of 4, and of 3 where sizes are told: got {self.width}")

    @property
    def multiple(self) -> int:
        """Height and width of the latent are multiples of this."""
        return self.patch

    @property
    def out_channels(self) -> int:
        return self.in_channels * (2 if self.learn_sigma else 1)


PIXART_512 = PixArtConfig()
PIXART_256 = replace(PIXART_512, span=16.0)
PIXART_1024 = replace(PIXART_512, sizes=True)


class PixArtBlock(nn.Module):
    """Equation (1), for x (B, L, D), shared (B, 6, D) and caption (B, M, D)."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.table = table(6, width)
        self.attention, self.cross = Attention(width, heads), Attention(width, heads, zero=True)
        self.up, self.down = Linear(width, hidden), Linear(hidden, width)

    def forward(self, x: Tensor, shared: Tensor, caption: Tensor, mask: Tensor | None = None) -> Tensor:
        s1, m1, g1, s2, m2, g2 = (self.table + shared).chunk(6, 1)  # (B, 1, D) each
        x = torch.addcmul(x, g1, self.attention(modulate(plain_norm(x), s1, m1)))
        x = x + self.cross(x, caption, mask)
        h = F.gelu(self.up(modulate(plain_norm(x), s2, m2)), approximate="tanh")
        return torch.addcmul(x, g2, self.down(h))


class SizeEmbedding(nn.Module):
    """Height and width in pixels and height over width, (B, 3) -> (B, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sides, self.aspect = TimeEmbedding(256, width // 3), TimeEmbedding(256, width // 3)

    def forward(self, sizes: Tensor) -> Tensor:
        sides = self.sides(sizes[:, :2].flatten()).view(sizes.shape[0], -1)
        return torch.cat((sides, self.aspect(sizes[:, 2])), 1)


class Told(NamedTuple):
    """What is told: the blocks by `shared` (B, 6, D), caption and mask, the head by the embedded time (B, D)."""

    emb: Tensor
    shared: Tensor
    caption: Tensor
    mask: Tensor | None


class PixArtBody(nn.Module):
    """All of a `PixArt` but its head. depth: how many blocks, None = all of the configuration."""

    def __init__(self, config: PixArtConfig, depth: int | None = None) -> None:
        super().__init__()
        self.config = c = config
        self.stem = nn.Conv2d(c.in_channels, c.width, c.patch, stride=c.patch)
        self.adapt = SingleAdapt(c.width)
        self.sizes = SizeEmbedding(c.width) if c.sizes else None
        self.captions = caption_layers(c.context_dim, c.width)
        count = c.depth if depth is None else depth
        self.blocks = nn.ModuleList(PixArtBlock(c.width, c.heads, int(c.width * c.mlp_ratio)) for _ in range(count))

    def entered(
        self, x: Tensor, t: Tensor, *, vector: Tensor | None = None, tokens: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Told]:
        """The patches (B, L, D) with their positions, and what is told."""
        c = self.config
        tokens = check_inputs(x, t, tokens, mask, c.in_channels, c.patch, c.context_dim)
        h = self.stem(x)  # (B, D, h, w)
        where = positions(h.shape[2], h.shape[3], c.width, size=c.span, device=x.device)
        h = h.flatten(2).transpose(1, 2) + where.to(h.dtype)
        emb, shared = self.adapt(t, self._sized(vector, x.shape[0]))
        return h, Told(emb, shared, self.captions(tokens), mask)

    def walk(self, h: Tensor, told: Told, residuals: Sequence[Tensor] | None = None) -> Iterator[Tensor]:
        """h after each block."""
        for block, more in layered(self.blocks, residuals):
            h = added(block(h, told.shared, told.caption, told.mask), more)
            yield h

    def _sized(self, vector: Tensor | None, batch: int) -> Tensor | None:
        if (self.sizes is None) != (vector is None):
            asks = "asks for height, width and their ratio" if vector is None else "is told no sizes"
            raise ValueError(f"vector: this net {asks}")
        if self.sizes is None or vector is None:
            return None
        expect("vector", vector, batch, 3)
        out: Tensor = self.sizes(vector)
        return out


class PixArt(PixArtBody):
    """net(x, t, tokens=, mask=, vector=): x (B, C, H, W), t (B,), tokens (B, L, E) -> (B, out_channels, H, W).

    vector (B, 3), where the configuration has `sizes`: height and width of the picture in pixels, not of the latent, and height
    over width, as plain numbers.
    """

    def __init__(self, config: PixArtConfig) -> None:
        super().__init__(config)
        c = config
        self.head = SingleHead(c.width, c.patch, c.out_channels)
        begin(self, self.stem, self.adapt)
        zeroed(self.head.linear)
        for block in self.blocks:
            assert isinstance(block, PixArtBlock)
            zeroed(block.cross.out)

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
        c = self.config
        h, told = self.entered(x, t, vector=vector, tokens=tokens, mask=mask)
        check_residuals(residuals, c.depth, h.shape[1], c.width)
        h = last(self.walk(h, told, residuals))
        out: Tensor = self.head(h, told.emb, x.shape[2] // c.patch, x.shape[3] // c.patch)
        return out
