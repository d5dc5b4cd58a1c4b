"""The U-Net of diffusion models.

Ho et al., "Denoising diffusion probabilistic models", arXiv:2006.11239: a residual network that halves the picture
level by level, then doubles it again, every feature of the way down being joined to its partner on the way up; self-attention
where the picture is small; the time embedding enters every residual block. Nichol & Dhariwal, arXiv:2102.09672, let it scale
and shift the norms, and give the net twice the channels, to learn the variance, too; Dhariwal & Nichol, arXiv:2105.05233, leave
the changes of size to residual blocks. Rombach et al., arXiv:2112.10752, let the attention blocks also look at tokens (a prompt).
A stem of pixel-unshuffle (Shi et al., arXiv:1609.05158) trades resolution for channels at once, which is what makes small nets
on a CPU quick.

With L levels and n blocks a level there are L (n + 1) skips: the stem, n per level, and one per halving; the way up has
n + 1 residual blocks a level. At level i the width is `channels * mult[i]`; the embedding is `4 * channels` wide. The shapes
of published nets are in `unets.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.blocks import (
    Downsample,
    ResBlock,
    SpatialAttention,
    SpatialTransformer,
    TimeEmbedding,
    Upsample,
    check_tokens,
    doubled,
    expect,
    halved,
    mlp,
    zeroed,
)
from reverie.nets.looking import passed
from reverie.nets.norm import GroupNorm


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The shape of a `UNet`.

    in_channels, out_channels: of the picture. channels, mult: width at level i is channels * mult[i], a whole number.
    blocks: residual blocks a level. attention: the levels (0 = full size) that have attention; middle: whether the
    bottom has. heads or head_width: of every attention block; head_width wins. depth: transformer blocks where there
    are tokens, for all levels or one number each; the bottom has as many as the last. context_dim: width of the tokens,
    None for no cross-attention. vector_dim: width of the vector, None where it already has the width of the time
    embedding, 4 * channels. patch: factor of the pixel-unshuffle stem. dropout, groups, eps: of the residual blocks and
    norms. scale_shift: the embedding scales and shifts. biggan: residual blocks change the size, and no convolutions.
    asymmetric: padding of the halvings by convolution. sine_first, time_shift: order and frequency shift of the time embedding.
    """

    in_channels: int = 3
    out_channels: int = 3
    channels: int = 128
    mult: tuple[float, ...] = (1, 2, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (1,)
    middle: bool = True
    heads: int = 1
    head_width: int | None = None
    depth: int | tuple[int, ...] = 1
    context_dim: int | None = None
    vector_dim: int | None = None
    patch: int = 1
    dropout: float = 0.0
    groups: int = 32
    eps: float = 1e-5
    scale_shift: bool = False
    biggan: bool = False
    asymmetric: bool = False
    sine_first: bool = False
    time_shift: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "mult", tuple(self.mult))
        object.__setattr__(self, "attention", tuple(self.attention))
        object.__setattr__(self, "depth", self.depth if isinstance(self.depth, int) else tuple(self.depth))
        if isinstance(self.depth, tuple) and len(self.depth) != len(self.mult):
            raise ValueError(f"depth {self.depth}: give one number for all of the {len(self.mult)} levels, or one each")
        if not all(0 <= i < len(self.mult) for i in self.attention):
            raise ValueError(f"attention {self.attention}: the levels are 0 to {len(self.mult) - 1}")
        if any(self.channels * m != int(self.channels * m) for m in self.mult):
            raise ValueError(f"mult {self.mult}: times {self.channels} channels they give no whole numbers")

    @property
    def widths(self) -> list[int]:
        """Channels at each level, from the largest picture to the smallest."""
        return [int(self.channels * m) for m in self.mult]

    def heads_of(self, channels: int) -> int:
        """Heads of an attention block of this width."""
        return self.heads if self.head_width is None else channels // self.head_width

    @property
    def multiple(self) -> int:
        """Height and width of the picture are multiples of this."""
        return self.patch * 2 ** (len(self.mult) - 1)


DDPM_CIFAR10 = UNetConfig(eps=1e-6, dropout=0.1, asymmetric=True, sine_first=True, time_shift=1)
"""Ho et al. on CIFAR-10: 35,746,307 parameters."""


class Level(nn.Module):
    """Residual blocks of one resolution, each with its attention, and the change of resolution that follows."""

    def __init__(self, res: list[nn.Module], attention: list[nn.Module], resample: nn.Module | None) -> None:
        super().__init__()
        self.res = nn.ModuleList(res)
        self.attention = nn.ModuleList(attention)  # as many as res, or none
        self.resample = resample

    def step(self, i: int, x: Tensor, emb: Tensor, tokens: Tensor | None, mask: Tensor | None) -> Tensor:
        """The i-th residual block and its attention."""
        x = self.res[i](x, emb)
        return self.attention[i](x, tokens, mask) if len(self.attention) and not passed() else x

    def leave(self, x: Tensor, emb: Tensor) -> Tensor:
        """The change of resolution, where there is one."""
        if self.resample is None:
            return x
        out: Tensor = self.resample(x, emb) if isinstance(self.resample, ResBlock) else self.resample(x)
        return out


def joined(h: Tensor, inner: Sequence[Tensor] | None, place: int) -> Tensor:
    """h with what is to join it at this place; an empty tensor is nothing."""
    if inner is None or place >= len(inner) or not inner[place].numel():
        return h
    return h + inner[place].to(h.dtype)


class Descent(nn.Module):
    """The way down and the bottom: what a `UNet` shares with the classifier of noised pictures.

    net(x, t): x (B, C, H, W), t (B,) -> (B, width of the last level, H / multiple, W / multiple).
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = c = config
        width, emb = c.widths, 4 * c.channels
        self.time = TimeEmbedding(c.channels, emb, sine_first=c.sine_first, shift=c.time_shift)
        self.vector = None if c.vector_dim is None else mlp(c.vector_dim, emb, emb)
        self.stem = nn.Conv2d(c.in_channels * c.patch**2, width[0], 3, padding=1)
        self.skips = [width[0]]
        self.down = nn.ModuleList(self._down(i, width) for i in range(len(width)))
        self.middle = Level([self._res(width[-1], width[-1]) for _ in range(2)], [], None)
        self.bottom = self._attention(len(width) - 1, width[-1]) if c.middle else None

    def _res(self, channels: int, out: int, resize: Callable[[Tensor], Tensor] | None = None) -> nn.Module:
        c = self.config
        kw = {"groups": c.groups, "eps": c.eps, "dropout": c.dropout}
        return ResBlock(channels, out, 4 * c.channels, scale_shift=c.scale_shift, resize=resize, **kw)  # type: ignore[arg-type]

    def _attention(self, i: int, channels: int) -> nn.Module:
        c, heads = self.config, self.config.heads_of(channels)
        if c.context_dim is None:
            return SpatialAttention(channels, heads, groups=c.groups, eps=c.eps)
        depth = c.depth if isinstance(c.depth, int) else c.depth[i]
        return SpatialTransformer(channels, heads, c.context_dim, depth, groups=c.groups)

    def _attentions(self, i: int, width: int, count: int) -> list[nn.Module]:
        return [self._attention(i, width) for _ in range(count)] if i in self.config.attention else []

    def _down(self, i: int, width: list[int]) -> Level:
        n, last = self.config.blocks, i == len(width) - 1
        res = [self._res(width[max(i - 1, 0)] if j == 0 else width[i], width[i]) for j in range(n)]
        self.skips += [width[i]] * (n if last else n + 1)
        attention = self._attentions(i, width[i], n)
        return Level(res, attention, None if last else self._halve(width[i]))

    def _halve(self, width: int) -> nn.Module:
        c = self.config
        return self._res(width, width, halved) if c.biggan else Downsample(width, asymmetric=c.asymmetric)

    def _embed(self, t: Tensor, vector: Tensor | None, batch: int) -> Tensor:
        emb = self.time(t)  # (B, 4 channels)
        if vector is not None:
            expect("vector", vector, batch, self.config.vector_dim or 4 * self.config.channels)
            emb = emb + (vector if self.vector is None else self.vector(vector))
        return F.silu(emb)

    def features(
        self,
        x: Tensor,
        t: Tensor,
        *,
        vector: Tensor | None = None,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        inner: Sequence[Tensor] | None = None,
    ) -> list[Tensor]:
        """The skips, in the order of the way down, and the bottom; inner: what joins it, as of `UNet`."""
        self._check(x, t)
        check_tokens(tokens, mask, x.shape[0], self.config.context_dim)
        h, skips = self._descend(x, self._embed(t, vector, x.shape[0]), tokens, mask, inner)
        return [*skips, h]

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self._check(x, t)
        return self._descend(x, self._embed(t, None, x.shape[0]), None, None)[0]

    def _descend(
        self,
        x: Tensor,
        emb: Tensor,
        tokens: Tensor | None,
        mask: Tensor | None,
        inner: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """What comes out at the bottom, and the skips; inner: features that join the way down itself, as of `UNet`."""
        patch = self.config.patch
        h = joined(self.stem(F.pixel_unshuffle(x, patch) if patch > 1 else x), inner, 0)
        skips = [h]
        for level in self.down:
            assert isinstance(level, Level)
            for i in range(len(level.res)):
                h = joined(level.step(i, h, emb, tokens, mask), inner, len(skips))
                skips.append(h)
            if level.resample is not None:
                h = joined(level.leave(h, emb), inner, len(skips))
                skips.append(h)
        h = self.middle.step(0, h, emb, None, None)
        h = h if self.bottom is None or passed() else self.bottom(h, tokens, mask)
        return joined(self.middle.step(1, h, emb, None, None), inner, len(skips)), skips

    def _check(self, x: Tensor, t: Tensor) -> None:
        expect("x", x, None, self.config.in_channels, None, None)
        expect("t", t, x.shape[0], *t.shape[1:])  # one clock, or several
        step = self.config.multiple
        if x.shape[2] % step or x.shape[3] % step:
            raise ValueError(f"x: expected height and width in multiples of {step}, got {tuple(x.shape[2:])}")


class UNet(Descent):
    """net(x, t, vector=, tokens=, mask=, residuals=, inner=): x (B, C, H, W), t (B,) -> (B, out_channels, H, W).

    H and W must be multiples of patch * 2^(levels - 1). residuals: tensors to add to the skips, in the order of the way
    down, as many as there are skips, or one more, which is added to the bottom (arXiv:2302.05543). inner: as these, but they join
    the way down itself, and go on with it; an empty tensor is nothing (arXiv:2302.08453).
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        c, width = config, config.widths
        left = list(self.skips)
        self.up = nn.ModuleList(self._up(i, width, left) for i in reversed(range(len(width))))
        self.norm = GroupNorm(width[0], c.groups, eps=c.eps, silu=True)
        self.head = zeroed(nn.Conv2d(width[0], c.out_channels * c.patch**2, 3, padding=1))

    def _up(self, i: int, width: list[int], left: list[int]) -> Level:
        n, below = self.config.blocks + 1, width[min(i + 1, len(width) - 1)]
        res = [self._res((below if j == 0 else width[i]) + left.pop(), width[i]) for j in range(n)]
        attention = self._attentions(i, width[i], n)
        return Level(res, attention, self._double(width[i]) if i else None)

    def _double(self, width: int) -> nn.Module:
        return self._res(width, width, doubled) if self.config.biggan else Upsample(width)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        vector: Tensor | None = None,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        residuals: Sequence[Tensor] | None = None,
        inner: Sequence[Tensor] | None = None,
    ) -> Tensor:
        patch = self.config.patch
        self._check(x, t)
        check_tokens(tokens, mask, x.shape[0], self.config.context_dim)
        self._check_residuals(residuals)
        emb = self._embed(t, vector, x.shape[0])
        h, skips = self._descend(x, emb, tokens, mask, inner)
        if residuals is not None:
            skips = [s + r.to(s.dtype) for s, r in zip(skips, residuals, strict=False)]
            h = h + residuals[-1].to(h.dtype) if len(residuals) > len(skips) else h
        y = self.head(self.norm(self._ascend(h, skips, emb, tokens, mask)))
        return F.pixel_shuffle(y, patch) if patch > 1 else y

    def _ascend(self, h: Tensor, skips: list[Tensor], emb: Tensor, tokens: Tensor | None, mask: Tensor | None) -> Tensor:
        for level in self.up:
            assert isinstance(level, Level)
            for i in range(len(level.res)):
                h = level.step(i, torch.cat((h, skips.pop()), 1), emb, tokens, mask)
            h = level.leave(h, emb)
        return h

    def _check_residuals(self, residuals: Sequence[Tensor] | None) -> None:
        if residuals is not None and len(residuals) not in (len(self.skips), len(self.skips) + 1):
            n = len(self.skips)
            raise ValueError(f"residuals: expected {n} (one per skip) or {n + 1} (the last for the bottom), got {len(residuals)}")
