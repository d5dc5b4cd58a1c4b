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
    patch: factor of the pixel-unshuffle stem. quant: the 1x1 convolutions on either side of the latent. groups, eps: of
    the norms.
    """

    in_channels: int = 3
    channels: int = 128
    mult: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    latent: int = 4
    attention: bool = True
    patch: int = 1
    quant: bool = True
    groups: int = 32
    eps: float = 1e-6

    def __post_init__(self) -> None:
        object.__setattr__(self, "mult", tuple(self.mult))

    @property
    def factor(self) -> int:
        """How many pixels a latent spans, each way."""
        return self.patch * 2 ** (len(self.mult) - 1)

    @property
    def widths(self) -> list[int]:
        return [self.channels * m for m in self.mult]

    def res(self, channels: int, out: int) -> ResBlock:
        return ResBlock(channels, out, groups=self.groups, eps=self.eps, zero=False)

    def middle(self) -> nn.Sequential:
        """The blocks of the smallest size: residual, attention, residual."""
        w = self.widths[-1]
        look = [SpatialAttention(w, groups=self.groups, eps=self.eps, zero=False)] if self.attention else []
        return nn.Sequential(self.res(w, w), *look, self.res(w, w))


KL_F8 = AutoencoderConfig()
"""The autoencoder of Stable Diffusion 1 and 2: 83,653,863 parameters."""
KL_F4 = AutoencoderConfig(mult=(1, 2, 4), latent=3)
"""The f = 4 autoencoder of latent diffusion: 55,312,063 parameters."""


class Encoder(nn.Module):
    """(B, C, H, W) -> (B, 2 latent, H/f, W/f)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = c = config
        w = c.widths
        self.stem = nn.Conv2d(c.in_channels * c.patch**2, w[0], 3, padding=1)
        body: list[nn.Module] = []
        for i in range(len(w)):
            body += [c.res(w[max(i - 1, 0)] if j == 0 else w[i], w[i]) for j in range(c.blocks)]
            body += [Downsample(w[i], asymmetric=True)] if i < len(w) - 1 else []
        self.body = nn.Sequential(*body)
        self.middle = c.middle()
        self.norm = GroupNorm(w[-1], c.groups, eps=c.eps, silu=True)
        self.head = nn.Conv2d(w[-1], 2 * c.latent, 3, padding=1)

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
            below = w[min(i + 1, len(w) - 1)]
            body += [c.res(below if j == 0 else w[i], w[i]) for j in range(c.blocks + 1)]
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
        self.encoder, self.decoder = Encoder(c), Decoder(c)
        self.quant = nn.Conv2d(2 * c.latent, 2 * c.latent, 1) if c.quant else nn.Identity()
        self.unquant = nn.Conv2d(c.latent, c.latent, 1) if c.quant else nn.Identity()

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latent; the latter kept in [-30, 20]."""
        expect("x", x, None, self.config.in_channels, None, None)
        f = self.config.factor
        if x.shape[2] % f or x.shape[3] % f:
            raise ValueError(f"x: expected height and width in multiples of {f}, got {tuple(x.shape[2:])}")
        mean, logvar = self.quant(self.encoder(x)).chunk(2, 1)
        return mean, logvar.clamp(-30.0, 20.0)

    def decode(self, z: Tensor) -> Tensor:
        expect("z", z, None, self.config.latent, None, None)
        out: Tensor = self.decoder(self.unquant(z))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """The picture rebuilt from the mean of its latent."""
        return self.decode(self.encode(x)[0])
