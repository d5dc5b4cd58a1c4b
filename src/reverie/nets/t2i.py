"""T2I-adapter: a small net that reads a picture once, and whose features join the way down of a U-Net.

Mou et al., "T2I-Adapter: learning adapters to dig out more controllable ability for text-to-image diffusion models",
arXiv:2302.08453. The picture is unshuffled to the places of the latent, and each level of the adapter gives a feature F_i that is
added once to the features of the same size on the way down, whatever the time; they go on with it:

    h_i <- h_i + F_i.                                                                                               (1)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.blocks import expect
from reverie.nets.unet import UNet


@dataclass(frozen=True, kw_only=True)
class T2IConfig:
    """The shape of a `T2IAdapter`.

    kind: `full`, `xl` with one halving only, or `light` with a quarter of the channels inside. hint_channels: of the picture.
    channels: of each level. blocks: residual blocks a level. shrink: factor of the pixel-unshuffle. places: of the features, by the
    numbers of the skips of the U-Net, from 0, the bottom being the last. factor: pixels of the picture for a place of x. unit: the
    picture is taken to [0, 1] first.
    """

    kind: Literal["full", "xl", "light"] = "full"
    hint_channels: int = 3
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    blocks: int = 2
    shrink: int = 8
    places: tuple[int, ...] = (2, 5, 8, 11)
    factor: int = 8
    unit: bool = True

    def __post_init__(self) -> None:
        levels = len(self.channels) + (self.kind == "light")
        if len(self.places) != levels or list(self.places) != sorted(set(self.places)):
            raise ValueError(f"places {self.places}: this adapter gives {levels} features, each to a place of its own, in order")

    def halves(self, level: int) -> bool:
        """Whether the picture is halved before this level."""
        return level == 2 if self.kind == "xl" else level > 0


T2I_SD_1 = T2IConfig()
"""Stable Diffusion 1: 77,369,280 parameters, and 77,000,640 where the picture has one channel."""
T2I_SDXL = T2IConfig(kind="xl", shrink=16, places=(3, 5, 8, 9))
"""Stable Diffusion XL: 79,028,160."""


class Residual(nn.Module):
    """x + conv(ReLU(conv3x3(x))), the last convolution of this size."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, size, padding=size // 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv2(F.relu(self.conv1(x)))
        return out


class Level(nn.Module):
    """(B, channels, H, W) -> (B, out, H, W), or of half the size; `light`: narrow inside."""

    def __init__(self, channels: int, out: int, blocks: int, *, light: bool, halve: bool) -> None:
        super().__init__()
        self.halve, inner = halve, out // 4 if light else out
        self.enter = nn.Conv2d(channels, inner, 1) if light or channels != out else nn.Identity()
        self.blocks = nn.ModuleList(Residual(inner, 3 if light else 1) for _ in range(blocks))
        self.leave = nn.Conv2d(inner, out, 1) if light else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(F.avg_pool2d(x, 2, ceil_mode=True) if self.halve else x)
        for block in self.blocks:
            h = block(h)
        out: Tensor = self.leave(h)
        return out


class T2IAdapter(nn.Module):
    """Equation (1). net.heard(hint) -> the features; hint (B, hint_channels, H, W) in [-1, 1]. It is asked as a `ControlNet` is."""

    room = "inner"
    latent = False
    channels = 0
    """Of x, which it does not look at."""

    def __init__(self, config: T2IConfig) -> None:
        super().__init__()
        self.config = c = config
        inside, light = c.hint_channels * c.shrink**2, c.kind == "light"
        self.stem = nn.Identity() if light else nn.Conv2d(inside, c.channels[0], 3, padding=1)
        outs = (*c.channels, *c.channels[-1:] * light)
        ins = (inside if light else c.channels[0], *outs[:-1])
        self.levels = nn.ModuleList(
            Level(a, b, c.blocks, light=light, halve=c.halves(i)) for i, (a, b) in enumerate(zip(ins, outs, strict=True))
        )

    def heard(self, hint: Tensor) -> tuple[Tensor, ...]:
        """The features, from the largest to the smallest."""
        expect("hint", hint, None, self.config.hint_channels, None, None)
        h = self.stem(F.pixel_unshuffle((hint + 1) / 2 if self.config.unit else hint, self.config.shrink))
        out = []
        for level in self.levels:
            h = level(h)
            out.append(h)
        return tuple(out)

    def answered(self, x: Tensor, t: Tensor, heard: Sequence[Tensor], **inputs: Any) -> list[Tensor]:
        """The same whatever else is told."""
        return list(heard)

    def forward(self, x: Tensor, t: Tensor, hint: Tensor, **inputs: Any) -> list[Tensor]:
        return list(self.heard(hint))

    def spread(self, said: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The features at their places, and nothing between."""
        nothing = said[0].new_zeros(len(said[0]), 0)
        at = dict(zip(self.config.places, said, strict=True))
        return tuple(at.get(k, nothing) for k in range(max(at) + 1))

    def silence(self) -> Iterable[nn.Module]:
        """No layers start at zero."""
        return ()


def t2i_of(net: UNet, factor: int = 1, hint_channels: int = 3) -> T2IAdapter:
    """A fresh adapter of this U-Net, full: a feature a level, to the last block before each halving; factor: as of `T2IConfig`."""
    c = net.config
    places = tuple(level * (c.blocks + 1) + c.blocks for level in range(len(c.widths)))
    shape: dict[str, Any] = {"channels": tuple(c.widths), "shrink": c.patch * factor, "places": places, "factor": factor}
    return T2IAdapter(T2IConfig(hint_channels=hint_channels, **shape)).to(next(net.parameters()).device)
