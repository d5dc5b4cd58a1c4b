"""The multimodal diffusion transformer: a picture and its text as two streams of rows that look at each other.

Esser et al., "Scaling rectified flow transformers", arXiv:2403.03206. Each stream has weights of its own; only the attention
is common. With c = time + vector (+ guidance), and for either stream its own six modulations of c,

    q, k, v = W ((1 + m1) LN(x) + s1),   y = Attention over the rows of both,
    x <- x + g1 W y,                     x <- x + g2 MLP((1 + m2) LN(x) + s2).                          (1)

All modulations come from layers that start at zero (adaLN-Zero), so every block starts as the identity. Queries and keys may be
normalised (w x / rms x), which keeps large nets stable in bfloat16. Stable Diffusion 3 adds fixed positions, cut out of the middle
of a large table. Flux (black-forest-labs/flux; no paper) goes on with blocks of one stream, in which attention and feed-forward
stand side by side (Dehghani et al., arXiv:2302.05442),

    h = (1 + m) LN(x) + s,   x <- x + g W [Attention(h), GELU(W h)],                                    (2)

and turns the k-th pair of entries of queries and keys by an angle instead (rotary positions, Su et al., arXiv:2104.09864):

    angle = coordinate * 10000^(-2k / a),  k = 0..a/2-1,                                                (3)

where a entries of each head belong to each coordinate. A net distilled from guidance is told the scale as a second clock.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.blocks import TimeEmbedding, check_tokens, expect, mlp, zeroed
from reverie.nets.dit import positions, unpatched
from reverie.nets.looking import added, check_residuals, last, layered
from reverie.nets.mmdit_blocks import Adapted, JointBlock, PlainBlock, SingleBlock, rotations
from reverie.nets.precision import Linear


@dataclass(frozen=True, kw_only=True)
class MMDiTConfig:
    """The shape of an `MMDiT`.

    in_channels: of the latent, and of what comes out. patch: pixels of a patch, each way. width, heads: of the transformer.
    depth: joint blocks; single: blocks of one stream after them; dual: how many of the first joint blocks have a second
    attention of the picture to itself. context_dim: width of the tokens. vector_dim: width of the vector, None where it
    already has the transformer's width. qk_norm: queries and keys are normalised. size: patches, each way, over which the
    fixed positions count from 0; table: how many of them are stored, each way, and may be asked for. axes: entries of a head
    that turn with each of three coordinates, in place of the table. packed: the entries of a patch are counted channel by
    channel, as Flux does, not pixel by pixel. guided: the net is told the scale of the guidance it was distilled from.
    gelu: "tanh" as published, or "none" for the exact function, which is quicker on a CPU.
    """

    in_channels: int = 16
    patch: int = 2
    width: int = 384
    heads: int = 6
    depth: int = 12
    single: int = 0
    dual: int = 0
    context_dim: int = 384
    vector_dim: int | None = None
    qk_norm: bool = True
    size: int = 16
    table: int = 16
    axes: tuple[int, int, int] | None = None
    packed: bool = False
    guided: bool = False
    gelu: Literal["tanh", "none"] = "tanh"

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"width must be a multiple of heads and of 4: got width {self.width}, heads {self.heads}")
        if self.axes is not None and (sum(self.axes) != self.width // self.heads or any(a % 2 for a in self.axes)):
            raise ValueError(f"axes must be even and add up to the width of a head, {self.width // self.heads}: got {self.axes}")
        if not 0 <= self.dual <= self.depth or self.depth < 1:
            raise ValueError(f"dual lies between 0 and depth, and depth is at least 1: got dual {self.dual}, depth {self.depth}")

    @property
    def multiple(self) -> int:
        """Height and width of the latent are multiples of this."""
        return self.patch

    @property
    def largest(self) -> int:
        """The longest side of a latent that has positions; 0 = there is none."""
        return 0 if self.axes else self.table * self.patch


SD3_MEDIUM = MMDiTConfig(width=1536, heads=24, depth=24, context_dim=4096, vector_dim=2048, qk_norm=False, size=64, table=192)
SD35_MEDIUM = replace(SD3_MEDIUM, dual=13, qk_norm=True, table=384)
SD35_LARGE = replace(SD3_MEDIUM, width=2432, heads=38, depth=38, qk_norm=True)
FLUX_SCHNELL = MMDiTConfig(
    width=3072, heads=24, depth=19, single=38, context_dim=4096, vector_dim=768, axes=(16, 56, 56), packed=True
)
FLUX_DEV = replace(FLUX_SCHNELL, guided=True)


def patch_stem(c: MMDiTConfig) -> Linear | nn.Conv2d:
    """What makes rows of patches: a product where their entries are counted channel by channel, else a convolution."""
    return Linear(c.in_channels * c.patch**2, c.width) if c.packed else nn.Conv2d(c.in_channels, c.width, c.patch, stride=c.patch)


def patches(stem: nn.Module, x: Tensor, c: MMDiTConfig) -> Tensor:
    """x (B, C, H, W) -> (B, rows columns, D)."""
    h: Tensor = stem(F.pixel_unshuffle(x, c.patch).flatten(2).mT) if c.packed else stem(x).flatten(2).mT
    return h


class Told(NamedTuple):
    """What the blocks are told: the text (B, L, D), the activated conditioning (B, D), what may be looked at, and the turns."""

    text: Tensor
    emb: Tensor
    seen: Tensor | None
    turn: Tensor | None


class MMDiTBody(nn.Module):
    """All of an `MMDiT` but its head. depth, single: how many joint blocks, and of one stream, None = all of the configuration.

    silent: the joint block from which no text need come out. plain: the blocks are of the picture alone, and nothing of the text.
    """

    positions: Tensor | None

    def __init__(
        self,
        config: MMDiTConfig,
        depth: int | None = None,
        single: int | None = None,
        *,
        silent: int | None = None,
        plain: bool = False,
    ) -> None:
        super().__init__()
        self.config = c = config
        self.stem = patch_stem(c)
        self.register_buffer("positions", None if c.axes else positions(c.table, c.table, c.width, size=c.size))
        self.time = TimeEmbedding(256, c.width)
        self.guidance = TimeEmbedding(256, c.width) if c.guided else None
        self.vector = None if c.vector_dim is None else mlp(c.vector_dim, c.width, c.width)
        self.context = None if plain else Linear(c.context_dim, c.width)
        shape, count = (c.width, c.heads, c.qk_norm, c.gelu), c.depth if depth is None else depth

        def joint(i: int) -> nn.Module:
            dual = i < c.dual
            return PlainBlock(*shape, dual=dual) if plain else JointBlock(*shape, dual=dual, last=i == silent)

        self.joint = nn.ModuleList(map(joint, range(count)))
        self.single = nn.ModuleList(SingleBlock(*shape) for _ in range(c.single if single is None else single))

    def entered(
        self,
        x: Tensor,
        t: Tensor,
        *,
        vector: Tensor | None = None,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> tuple[Tensor, Told]:
        """The patches (B, rows columns, D) with their positions where these are fixed, and what the blocks are told."""
        c = self.config
        self._check(x, t, tokens, mask)
        rows, columns = x.shape[2] // c.patch, x.shape[3] // c.patch
        h = self._placed(patches(self.stem, x, c), rows, columns)
        text = h.new_zeros(len(x), 0, c.width)
        if self.context is not None:
            text = self.context(h.new_zeros(len(x), 0, c.context_dim) if tokens is None else tokens)
        emb = F.silu(self._embed(t, vector, guidance, len(x)))
        turn = rotations(rows, columns, text.shape[1], c.axes, x.device) if c.axes else None
        told = mask is not None and self.context is not None
        seen = F.pad(mask, (0, rows * columns), value=True)[:, None, None] if told and mask is not None else None
        return h, Told(text, emb, seen, turn)

    def walk(self, h: Tensor, told: Told, residuals: Sequence[Tensor] | None = None) -> Iterator[Tensor]:
        """The picture's rows after each block."""
        text, emb, seen, turn = told
        for block, more in layered(self.joint, residuals):
            h, text = block(h, text, emb, seen, turn)
            h = added(h, more)
            yield h
        if len(self.single):
            n = text.shape[1]
            h = torch.cat((text, h), 1)
            for block, more in layered(self.single, residuals, len(self.joint)):
                h = added(block(h, emb, seen, turn, n), more, n)
                yield h[:, n:]

    def _placed(self, h: Tensor, rows: int, columns: int) -> Tensor:
        """h with the middle of the table of positions, where there is one."""
        if self.positions is None:
            return h
        table = self.config.table
        top, left = (table - rows) // 2, (table - columns) // 2
        middle = self.positions.unflatten(1, (table, table))[:, top : top + rows, left : left + columns]
        return (h + middle.flatten(1, 2)).to(h.dtype)

    def _embed(self, t: Tensor, vector: Tensor | None, guidance: Tensor | None, batch: int) -> Tensor:
        """c of equation (1), (B, D)."""
        emb: Tensor = self.time(t)
        if (guidance is None) != (self.guidance is None):
            raise ValueError(f"guidance: this net {'is not' if self.guidance is None else 'must be'} told a scale of guidance")
        if self.guidance is not None and guidance is not None:
            expect("guidance", guidance, batch)
            emb = emb + self.guidance(1000 * guidance)
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
        if c.axes is None and max(x.shape[2:]) > c.table * c.patch:
            raise ValueError(f"x: positions are stored for up to {c.table * c.patch} pixels each way, got {tuple(x.shape[2:])}")
        check_tokens(tokens, mask, x.shape[0], c.context_dim)


class MMDiT(MMDiTBody):
    """net(x, t, vector=, tokens=, mask=, guidance=): x (B, C, H, W), t (B,) = 1000 sigma -> (B, C, H, W)."""

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__(config, silent=None if config.single else config.depth - 1)
        c = config
        self.norm = Adapted(c.width)
        self.head = Linear(c.width, c.in_channels * c.patch**2)
        self._init()

    def _init(self) -> None:
        """Xavier for every linear layer, then zero for all that must start silent."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.stem.weight.view(self.config.width, -1))
        nn.init.zeros_(self.stem.bias)  # type: ignore[arg-type]
        for told in (self.time, self.guidance, self.vector):
            for p in () if told is None else told.parameters():
                nn.init.normal_(p, std=0.02 if p.ndim > 1 else 0.0)
        for name, module in self.named_modules():
            if name.endswith(".adapt"):
                zeroed(module)
        zeroed(self.norm)
        zeroed(self.head)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        vector: Tensor | None = None,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        guidance: Tensor | None = None,
        residuals: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """tokens (B, L, context_dim), None for no text; mask (B, L) bool, True = real; guidance (B,): the scale itself.

        residuals: tensors (B, rows, D) to add to the picture after each block, at most one per block: the joint ones first.
        """
        c = self.config
        h, told = self.entered(x, t, vector=vector, tokens=tokens, mask=mask, guidance=guidance)
        check_residuals(residuals, c.depth + c.single, h.shape[1], c.width)
        h = last(self.walk(h, told, residuals))
        return self._leave(self.head(self.norm(h, told.emb)), x.shape[2] // c.patch, x.shape[3] // c.patch)

    def _leave(self, y: Tensor, rows: int, columns: int) -> Tensor:
        """y (B, rows columns, p p C) -> (B, C, H, W)."""
        c = self.config
        if c.packed:
            return F.pixel_shuffle(y.mT.unflatten(2, (rows, columns)), c.patch)
        return unpatched(y, rows, columns, c.patch)
