"""The deep compression autoencoder (Chen et al., arXiv:2410.10733), f = 32.

Levels halve the picture, each with a shortcut that has no weights: what is folded into channels is averaged over groups of them on
the way down, and repeated and unfolded on the way up, so that the convolutions learn only what differs from that. The deep levels
are blocks of EfficientViT (Cai et al., arXiv:2205.14756): attention without a softmax, whose cost grows with the pixels and not
with their square,

    y_i = sum_j v_j (relu(k_j) . relu(q_i)) / sum_j relu(k_j) . relu(q_i),                                        (1)

over q, k, v as they are and as a wider look at them, a depthwise convolution, makes them; then a gated convolution. Norms
divide every pixel by the root mean square of its channels.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.autoencoder import fits
from reverie.nets.blocks import expect, image, rows
from reverie.nets.precision import Linear

TINY = 1e-15
"""Added to the sum in (1)."""


@dataclass(frozen=True, kw_only=True)
class DCAEConfig:
    """The shape of a `DCAE`.

    in_channels: of the picture. latent: channels of the latent. widths: of the levels. encoder, decoder: blocks of each level.
    attend: levels of attention blocks, the others being of convolutions. head: width of a head. scales: sizes of the wider
    looks at q, k, v. shuffle: levels change size by folding pixels into channels, not by a stride and by repetition.
    """

    in_channels: int = 3
    latent: int = 32
    widths: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)
    encoder: tuple[int, ...] = (2, 2, 2, 3, 3, 3)
    decoder: tuple[int, ...] = (3, 3, 3, 3, 3, 3)
    attend: tuple[int, ...] = (3, 4, 5)
    head: int = 32
    scales: tuple[int, ...] = (5,)
    shuffle: bool = False

    def __post_init__(self) -> None:
        for name in ("widths", "encoder", "decoder", "attend", "scales"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not len(self.widths) == len(self.encoder) == len(self.decoder) or not all(self.encoder + self.decoder):
            raise ValueError("widths, encoder and decoder: one width, and one or more blocks, for each level")
        if self.widths[-1] % self.latent:
            raise ValueError(f"latent: {self.widths[-1]} channels of the last level are not a multiple of {self.latent}")

    @property
    def factor(self) -> int:
        """How many pixels a latent spans, each way."""
        return 2 ** (len(self.widths) - 1)

    def blocks(self, level: int, count: int) -> list[nn.Module]:
        """The blocks of a level."""
        w = self.widths[level]
        return [LookBlock(w, self.head, self.scales) if level in self.attend else ConvBlock(w) for _ in range(count)]


DCAE_F32 = DCAEConfig()
"""The autoencoder of Sana: 312,250,275 parameters."""


class ChannelNorm(nn.Module):
    """(B, C, H, W): every pixel over the root mean square of its channels, times a weight, plus a bias."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float().permute(0, 2, 3, 1)
        y = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps) * self.weight + self.bias
        return y.permute(0, 3, 1, 2).to(x.dtype)


class ConvBlock(nn.Module):
    """Two 3x3 convolutions, a norm, residual: (B, C, H, W) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.norm(self.conv2(F.silu(self.conv1(x))))
        return out


class WiderLook(nn.Module):
    """Of q, k, v (B, 3 C, H, W): a depthwise convolution, then products within each head's thirds."""

    def __init__(self, channels: int, heads: int, size: int) -> None:
        super().__init__()
        self.depth = nn.Conv2d(channels, channels, size, padding=size // 2, groups=channels, bias=False)
        self.point = nn.Conv2d(channels, channels, 1, groups=3 * heads, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.point(self.depth(x))
        return out


class LinearAttention(nn.Module):
    """Eq. (1), a norm, residual: (B, C, H, W) -> the same.

    q, k and v are the three parts of one projection: a head's own are 3 `head` neighbours of the parts laid end to end.
    """

    def __init__(self, channels: int, head: int, scales: tuple[int, ...]) -> None:
        super().__init__()
        if channels % head:
            raise ValueError(f"a width of {channels} cannot be split into heads of {head}")
        self.head = head
        self.q, self.k, self.v = (Linear(channels, channels, bias=False) for _ in range(3))
        self.wider = nn.ModuleList(WiderLook(3 * channels, channels // head, size) for size in scales)
        self.out = Linear(channels * (1 + len(scales)), channels, bias=False)
        self.norm = ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        flat = rows(x)
        qkv = image(torch.cat([self.q(flat), self.k(flat), self.v(flat)], -1), x)  # (B, 3 C, H, W)
        every = torch.cat([qkv, *(look(qkv) for look in self.wider)], 1)
        with torch.autocast(x.device.type, enabled=False):
            y = self._attend(every.flatten(2).unflatten(1, (-1, 3 * self.head)).float())
        out: Tensor = x + self.norm(image(self.out(y.flatten(1, 2).transpose(1, 2).to(x.dtype)), x))
        return out

    def _attend(self, qkv: Tensor) -> Tensor:
        """(B, heads, 3 E, L) -> (B, heads, E, L); the sum below the line is one more entry of v, of ones."""
        q, k, v = qkv.chunk(3, 2)
        y = F.pad(v, (0, 0, 0, 1), value=1.0) @ F.relu(k).transpose(-1, -2) @ F.relu(q)
        return y[:, :, :-1] / (y[:, :, -1:] + TINY)


class GatedConv(nn.Module):
    """1x1 to eight times the width, depthwise 3x3, half gating the other, 1x1 back, a norm, residual."""

    def __init__(self, channels: int, ratio: int = 4) -> None:
        super().__init__()
        hidden = 2 * ratio * channels
        self.up = nn.Conv2d(channels, hidden, 1)
        self.depth = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.down = nn.Conv2d(hidden // 2, channels, 1, bias=False)
        self.norm = ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.depth(F.silu(self.up(x))).chunk(2, 1)
        out: Tensor = x + self.norm(self.down(value * F.silu(gate)))
        return out


class LookBlock(nn.Sequential):
    """Linear attention, then a gated convolution."""

    def __init__(self, channels: int, head: int, scales: tuple[int, ...]) -> None:
        super().__init__(LinearAttention(channels, head, scales), GatedConv(channels))


class Halve(nn.Module):
    """(B, C, H, W) -> (B, out, H/2, W/2), with the shortcut of means."""

    def __init__(self, channels: int, out: int, shuffle: bool) -> None:
        super().__init__()
        self.shuffle, self.group = shuffle, 4 * channels // out
        self.conv = nn.Conv2d(channels, out // 4 if shuffle else out, 3, stride=1 if shuffle else 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.pixel_unshuffle(self.conv(x), 2) if self.shuffle else self.conv(x)
        return y + F.pixel_unshuffle(x, 2).unflatten(1, (-1, self.group)).mean(2)


class Double(nn.Module):
    """(B, C, H, W) -> (B, out, 2 H, 2 W), with the shortcut of repeated channels."""

    def __init__(self, channels: int, out: int, shuffle: bool) -> None:
        super().__init__()
        self.shuffle, self.repeat = shuffle, 4 * out // channels
        self.conv = nn.Conv2d(channels, 4 * out if shuffle else out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.pixel_shuffle(self.conv(x), 2) if self.shuffle else self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return y + F.pixel_shuffle(x.repeat_interleave(self.repeat, 1), 2)


class DCEncoder(nn.Module):
    """(B, C, H, W) -> (B, latent, H/f, W/f)."""

    def __init__(self, config: DCAEConfig) -> None:
        super().__init__()
        self.config = c = config
        w = c.widths
        self.stem = nn.Conv2d(c.in_channels, w[0], 3, padding=1)
        ends = [[Halve(w[i], w[i + 1], c.shuffle)] for i in range(len(w) - 1)]
        self.levels = nn.ModuleList(
            nn.Sequential(*c.blocks(i, n), *end) for i, (n, end) in enumerate(zip(c.encoder, [*ends, []], strict=True))
        )
        self.head = nn.Conv2d(w[-1], c.latent, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for level in self.levels:
            h = level(h)
        out: Tensor = self.head(h) + h.unflatten(1, (self.config.latent, -1)).mean(2)
        return out


class DCDecoder(nn.Module):
    """(B, latent, h, w) -> (B, C, h f, w f). levels[0] is the last that is run, at full size."""

    def __init__(self, config: DCAEConfig) -> None:
        super().__init__()
        self.config = c = config
        w = c.widths
        self.stem = nn.Conv2d(c.latent, w[-1], 3, padding=1)
        begins = [[Double(w[i + 1], w[i], c.shuffle)] for i in range(len(w) - 1)]
        self.levels = nn.ModuleList(
            nn.Sequential(*begin, *c.blocks(i, n)) for i, (n, begin) in enumerate(zip(c.decoder, [*begins, []], strict=True))
        )
        self.norm = ChannelNorm(w[0])
        self.head = nn.Conv2d(w[0], c.in_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.stem(z) + z.repeat_interleave(self.config.widths[-1] // self.config.latent, 1)
        for level in reversed(self.levels):
            h = level(h)
        out: Tensor = self.head(F.relu(self.norm(h)))
        return out


class DCAE(nn.Module):
    """`encode(x)` -> z (B, latent, H/f, W/f); `decode(z)` -> x (B, C, H, W)."""

    def __init__(self, config: DCAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = DCEncoder(config), DCDecoder(config)

    @property
    def last(self) -> Tensor:
        """The weight of the decoder's last layer."""
        return self.decoder.head.weight

    def encode(self, x: Tensor) -> Tensor:
        fits("x", x, self.config.in_channels, self.config.factor)
        out: Tensor = self.encoder(x)
        return out

    def decode(self, z: Tensor) -> Tensor:
        expect("z", z, None, self.config.latent, None, None)
        out: Tensor = self.decoder(z)
        return out

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))
