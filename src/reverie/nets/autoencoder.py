"""The KL autoencoder of latent diffusion.

Rombach et al., arXiv:2112.10752, after Esser et al., arXiv:2012.09841: a convolutional encoder gives the mean and the
logarithm of the variance of a diagonal Gaussian over latents, a mirrored decoder turns a latent back into a picture.
The width at level i is `channels * mult[i]`; every level but the last halves the picture, so the latent is smaller by
f = patch * 2^(levels - 1). A patch above one is a pixel-unshuffle stem, which makes small autoencoders quick.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.blocks import Downsample, ResBlock, SpatialAttention, Upsample, expect
from reverie.nets.norm import GroupNorm


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """The shape of an `Autoencoder`.

    in_channels: of the picture. channels, mult: width at level i is channels * mult[i]. blocks: residual blocks a level
    in the encoder (the decoder has one more). latent: channels of the latent. attention: whether the middle has it.
    attend: levels with attention behind every residual block. patch: factor of the pixel-unshuffle stem. quant: the 1x1
    convolutions on either side of the latent. groups, eps: of the norms. straight: a linear map of every square of pixels to
    its latent, and back, beside the nets, which then learn only what it cannot.
    """

    in_channels: int = 3
    channels: int = 128
    mult: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    latent: int = 4
    attention: bool = True
    attend: tuple[int, ...] = ()
    patch: int = 1
    quant: bool = True
    groups: int = 32
    eps: float = 1e-6
    straight: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "mult", tuple(self.mult))
        object.__setattr__(self, "attend", tuple(self.attend))

    @property
    def factor(self) -> int:
        """How many pixels a latent spans, each way."""
        return self.patch * 2 ** (len(self.mult) - 1)

    @property
    def widths(self) -> list[int]:
        return [self.channels * m for m in self.mult]

    def res(self, channels: int, out: int) -> ResBlock:
        return ResBlock(channels, out, groups=self.groups, eps=self.eps, zero=False)

    def look(self, channels: int) -> SpatialAttention:
        return SpatialAttention(channels, groups=self.groups, eps=self.eps, zero=False)

    def level(self, i: int, before: int, blocks: int) -> list[nn.Module]:
        """The blocks of level i, for an input of `before` channels."""
        w = self.widths[i]
        body: list[nn.Module] = []
        for j in range(blocks):
            body += [self.res(w if j else before, w), *([self.look(w)] if i in self.attend else [])]
        return body

    def middle(self) -> nn.Sequential:
        """The blocks of the smallest size: residual, attention, residual."""
        w = self.widths[-1]
        return nn.Sequential(self.res(w, w), *([self.look(w)] if self.attention else []), self.res(w, w))


KL_F8 = AutoencoderConfig()
"""The autoencoder of Stable Diffusion 1 and 2: 83,653,863 parameters."""
KL_F4 = AutoencoderConfig(mult=(1, 2, 4), latent=3)
"""The f = 4 autoencoder of latent diffusion: 55,312,063 parameters."""
KL_F16 = AutoencoderConfig(mult=(1, 1, 2, 2, 4), latent=16, attend=(4,))
"""Its f = 16 autoencoder, which attends at the smallest size: 69,610,963 parameters."""
KL_F32 = AutoencoderConfig(mult=(1, 1, 2, 2, 4, 4), latent=64, attend=(4, 5))
"""Its f = 32 autoencoder: 103,880,131 parameters."""


def fits(what: str, x: Tensor, channels: int, factor: int) -> None:
    """Raise ValueError unless x is (B, channels, H, W) with height and width in multiples of the factor."""
    expect(what, x, None, channels, None, None)
    if x.shape[2] % factor or x.shape[3] % factor:
        raise ValueError(f"{what}: expected height and width in multiples of {factor}, got {tuple(x.shape[2:])}")


class Encoder(nn.Module):
    """(B, C, H, W) -> (B, out, H/f, W/f)."""

    def __init__(self, config: AutoencoderConfig, out: int) -> None:
        super().__init__()
        self.config = c = config
        w = c.widths
        self.stem = nn.Conv2d(c.in_channels * c.patch**2, w[0], 3, padding=1)
        body: list[nn.Module] = []
        for i in range(len(w)):
            body += c.level(i, w[max(i - 1, 0)], c.blocks)
            body += [Downsample(w[i], asymmetric=True)] if i < len(w) - 1 else []
        self.body = nn.Sequential(*body)
        self.middle = c.middle()
        self.norm = GroupNorm(w[-1], c.groups, eps=c.eps, silu=True)
        self.head = nn.Conv2d(w[-1], out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        p = self.config.patch
        h = self.middle(self.body(self.stem(F.pixel_unshuffle(x, p) if p > 1 else x)))
        out: Tensor = self.head(self.norm(h))
        return out


class Decoder(nn.Module):
    """(B, latent, h, w) -> (B, C, h f, w f)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = c = config
        w = c.widths
        self.stem = nn.Conv2d(c.latent, w[-1], 3, padding=1)
        self.middle = c.middle()
        body: list[nn.Module] = []
        for i in reversed(range(len(w))):
            body += c.level(i, w[min(i + 1, len(w) - 1)], c.blocks + 1)
            body += [Upsample(w[i])] if i else []
        self.body = nn.Sequential(*body)
        self.norm = GroupNorm(w[0], c.groups, eps=c.eps, silu=True)
        self.head = nn.Conv2d(w[0], c.in_channels * c.patch**2, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        p = self.config.patch
        y = self.head(self.norm(self.body(self.middle(self.stem(z)))))
        return F.pixel_shuffle(y, p) if p > 1 else y


class Autoencoder(nn.Module):
    """`encode(x)` -> (mean, logvar), each (B, latent, H/f, W/f); `decode(z)` -> x (B, C, H, W)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = c = config
        self.encoder, self.decoder = Encoder(c, 2 * c.latent), Decoder(c)
        self.quant = nn.Conv2d(2 * c.latent, 2 * c.latent, 1) if c.quant else nn.Identity()
        self.unquant = nn.Conv2d(c.latent, c.latent, 1) if c.quant else nn.Identity()
        square = c.in_channels * c.factor**2
        self.fold = nn.Conv2d(square, c.latent, 1) if c.straight else None
        self.unfold = nn.Conv2d(c.latent, square, 1) if c.straight else None

    @property
    def last(self) -> Tensor:
        """The weight of the decoder's last layer."""
        return self.decoder.head.weight

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latent; the latter kept in [-30, 20]."""
        fits("x", x, self.config.in_channels, self.config.factor)
        mean, logvar = self.quant(self.encoder(x)).chunk(2, 1)
        if self.fold is not None:
            mean = mean + self.fold(F.pixel_unshuffle(x, self.config.factor))
        return mean, logvar.clamp(-30.0, 20.0)

    def decode(self, z: Tensor) -> Tensor:
        expect("z", z, None, self.config.latent, None, None)
        out: Tensor = self.decoder(self.unquant(z))
        return out if self.unfold is None else out + F.pixel_shuffle(self.unfold(z), self.config.factor)

    def forward(self, x: Tensor) -> Tensor:
        """The picture rebuilt from the mean of its latent."""
        return self.decode(self.encode(x)[0])
