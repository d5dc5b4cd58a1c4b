"""The space the diffusion runs in: pixels themselves, or a learned latent.

encode: pictures (B, C, H, W) in [-1, 1] -> z;    decode: z -> pictures                                       (1)
z = (latent - shift) / scale, per channel, so that the data has mean 0 and deviation 1                        (2)
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor, nn

from reverie.card import remembers
from reverie.errors import UserError
from reverie.nets.autoencoder import Autoencoder, AutoencoderConfig
from reverie.nets.dcae import DCAE, DCAEConfig
from reverie.nets.precision import inside
from reverie.nets.tiles import tiled
from reverie.nets.upsampler import Upsampler, UpsamplerConfig
from reverie.nets.vq import VQAutoencoder, VQConfig


class Codec(Protocol):
    """Between pictures and the space of the diffusion."""

    @property
    def factor(self) -> int:
        """Pixels that one place of z stands for, each way."""
        ...

    @property
    def channels(self) -> int:
        """Of the pictures: 3 in colours, 1 in grey; 0 where nothing is encoded."""
        ...

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """(C, H, W) of z for pictures of this size."""
        ...

    def encode(self, x: Tensor) -> Tensor: ...

    def decode(self, z: Tensor) -> Tensor: ...


@remembers
class Pixels(nn.Module):
    """No codec: the pictures are the space."""

    factor = 1

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        return (self.channels, height, width)

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        return z


@remembers
class Points(nn.Module):
    """Points (B, 2) of the plane, not pictures; each is drawn as a dot."""

    factor, channels = 1, 0

    def __init__(self) -> None:
        super().__init__()

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        return (2,)

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        """One picture (B, 1, 64, 64) per point of [-1.5, 1.5]^2, white where it lies; a point beyond is drawn at the edge."""
        column, row = ((z + 1.5) / 3 * 64).floor().clamp(0, 63).long().unbind(1)
        out = z.new_full((len(z), 1, 64, 64), -1.0)
        out[torch.arange(len(z), device=z.device), 0, row, column] = 1
        return out


@remembers
class Shrunk(nn.Module):
    """Small pictures: encode averages factor x factor pixels, decode enlarges with a net (B, C, h, w) -> (B, C, fh, fw).

    autocast: dtype of the inside of the net (torch.bfloat16), or None for its own.
    """

    autocast: torch.dtype | None = None

    def __init__(self, net: UpsamplerConfig) -> None:
        super().__init__()
        self.net, self.factor, self.channels = Upsampler(net), net.factor, net.in_channels

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        return (self.net.config.in_channels, *_divided(height, width, self.factor))

    def encode(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, self.factor)

    def decode(self, z: Tensor) -> Tensor:
        with inside(self.autocast, z.device):
            out = self.net(z)
        return out.to(z.dtype)


def _divided(height: int, width: int, factor: int) -> tuple[int, int]:
    if height % factor or width % factor:
        raise ValueError(f"{height}x{width} is not a multiple of {factor}, the codec's factor")
    return height // factor, width // factor


Net = Autoencoder | VQAutoencoder | DCAE
NETS: Mapping[type, Callable[..., Net]] = MappingProxyType(
    {AutoencoderConfig: Autoencoder, VQConfig: VQAutoencoder, DCAEConfig: DCAE}
)
"""What a latent's net may be: whatever has `encode`, `decode` and a factor; one line each."""


@remembers
class Latent(nn.Module):
    """An autoencoder with the latents' measured mean and deviation, eq. (2). autocast: as of `Shrunk`.

    Two ways to spend less memory, each for more time: `tile`, a side in pixels, takes larger pictures tile by tile, with overlaps
    of a quarter (`nets/tiles.py`); `sliced` takes the pictures of a batch one by one.
    """

    shift: Tensor
    scale: Tensor
    autocast: torch.dtype | None = None
    tile: int | None = None
    sliced: bool = False

    def __init__(self, net: AutoencoderConfig | VQConfig | DCAEConfig) -> None:
        super().__init__()
        self.net, self.factor, self.channels = NETS[type(net)](net), net.factor, net.in_channels
        self.register_buffer("shift", torch.zeros(net.latent))
        self.register_buffer("scale", torch.ones(net.latent))

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        return (len(self.shift), *_divided(height, width, self.factor))

    def encode(self, x: Tensor) -> Tensor:
        z = self._piecewise(self._mean, x, takes=self.factor)
        return (z - self.shift[:, None, None]) / self.scale[:, None, None]

    def decode(self, z: Tensor) -> Tensor:
        return self._piecewise(self._picture, z * self.scale[:, None, None] + self.shift[:, None, None], gives=self.factor)

    def _mean(self, x: Tensor) -> Tensor:
        """What a picture is encoded as; of a distribution over latents, its mean."""
        with inside(self.autocast, x.device):
            z = self.net.encode(x)
        return (z[0] if isinstance(z, tuple) else z).to(x.dtype)

    def _picture(self, z: Tensor) -> Tensor:
        with inside(self.autocast, z.device):
            return self.net.decode(z).to(z.dtype)

    def _piecewise(self, f: Callable[[Tensor], Tensor], x: Tensor, *, takes: int = 1, gives: int = 1) -> Tensor:
        """f of x, whole or in pieces. UserError where a tile is too small to overlap.

        With the channels innermost a convolution adds up a picture in the same order, whatever else is in the batch.
        """
        x = x.contiguous(memory_format=torch.channels_last)
        if self.sliced and len(x) > 1:
            return torch.cat([self._piecewise(f, x[i : i + 1], takes=takes, gives=gives) for i in range(len(x))])
        if self.tile is None:
            return f(x)
        if (places := self.tile // self.factor) < 4:
            raise UserError(f"tiles of {self.tile} pixels are too small for this codec: give {4 * self.factor} or more")
        return tiled(f, x, places, places // 4, takes=takes, gives=gives)

    def measure(self, batches: Sequence[Tensor]) -> None:
        """Sets shift and scale from pictures."""
        self.shift.zero_()
        self.scale.fill_(1)
        with torch.no_grad():
            z = torch.cat([self.encode(x) for x in batches])
        self.shift.copy_(z.mean((0, 2, 3)))
        self.scale.copy_(z.std((0, 2, 3)))


CODECS = (Pixels, Points, Shrunk, Latent)
