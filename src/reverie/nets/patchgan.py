"""A discriminator that judges patches.

Isola et al., arXiv:1611.07004, as trained beside the autoencoders of Esser et al., arXiv:2012.09841: convolutions of 4x4, of which
`layers` halve the picture, and at the end one number for each patch. With three layers a patch is 70 pixels wide.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from reverie.nets.blocks import expect


@dataclass(frozen=True, kw_only=True)
class PatchGANConfig:
    """in_channels: of the picture. channels: of the first layer; each later one has twice as many, up to eight times.

    layers: how many halve the picture.
    """

    in_channels: int = 3
    channels: int = 64
    layers: int = 3


class PatchGAN(nn.Module):
    """(B, C, H, W) -> (B, 1, h, w): positive where a patch looks real. Weights begin as those of a DCGAN (deviation 0.02)."""

    def __init__(self, config: PatchGANConfig) -> None:
        super().__init__()
        self.config = c = config
        body: list[nn.Module] = [nn.Conv2d(c.in_channels, c.channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        width = c.channels
        for i in range(1, c.layers + 1):
            wider = c.channels * min(2**i, 8)
            stride = 1 if i == c.layers else 2
            body += [nn.Conv2d(width, wider, 4, stride=stride, padding=1, bias=False), nn.BatchNorm2d(wider), nn.LeakyReLU(0.2)]
            width = wider
        self.body = nn.Sequential(*body)
        self.head = nn.Conv2d(width, 1, 4, padding=1)
        self.apply(_begin)

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, None, self.config.in_channels, None, None)
        out: Tensor = self.head(self.body(x))
        return out


def _begin(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
