"""ControlNet: a copy of a U-Net's way down that learns to hear a picture, and speaks through layers that start at zero.

Zhang et al., "Adding conditional control to text-to-image diffusion models", arXiv:2302.05543. With F_i the features of the copied
way down at its i-th skip (the last: the bottom), E a small encoder of the picture c, and Z convolutions that start at zero,

    h_0 = stem(x) + Z E(c),    r_i = Z_i F_i(h_0, t, ...),    skip_i <- skip_i + r_i.                               (1)

At first all r_i are 0, and the controlled net is the net itself. E is a row of convolutions of 3x3 with SiLU between them, which
halves the picture until it has the places of the stem's output.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.blocks import expect, zeroed
from reverie.nets.unet import Descent, UNet, UNetConfig

WIDTHS = (16, 32, 96, 256)
"""Channels of E as published, where a place of the stem's output stands for 8 pixels each way."""


def halvings(shrink: int) -> int:
    """How often a picture is halved to have its sides `shrink` times smaller; ValueError where that is no power of 2."""
    if shrink < 1 or shrink & (shrink - 1):
        raise ValueError(f"a picture is halved until it is small enough, so {shrink} pixels a place must be a power of 2")
    return shrink.bit_length() - 1


def widths_for(shrink: int) -> tuple[int, ...]:
    """The published widths, cut or continued so that there is one halving between each two of them; two at least."""
    count = max(halvings(shrink), 1) + 1
    return (*WIDTHS[:count], *WIDTHS[-1:] * (count - len(WIDTHS)))


class HintEncoder(nn.Module):
    """E of equation (1): a picture (B, C, H, W) -> (B, out, H / shrink, W / shrink), 0 at first.

    widths: of its convolutions; from one to the next the picture may be halved once, and is on the last halvings that it needs.
    """

    def __init__(self, channels: int, out: int, shrink: int, widths: Sequence[int]) -> None:
        super().__init__()
        steps, count = len(widths) - 1, halvings(shrink)
        if count > steps:
            raise ValueError(f"widths {tuple(widths)}: with {shrink} pixels a place there must be {count + 1} of them at least")
        self.channels, self.shrink = channels, shrink
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        body: list[nn.Module] = []
        for i, (a, b) in enumerate(pairwise(widths)):
            body += [nn.Conv2d(a, a, 3, padding=1), nn.Conv2d(a, b, 3, padding=1, stride=2 if i >= steps - count else 1)]
        self.body = nn.ModuleList(body)
        self.out = zeroed(nn.Conv2d(widths[-1], out, 3, padding=1))

    def forward(self, picture: Tensor) -> Tensor:
        expect("hint", picture, None, self.channels, None, None)
        h = F.silu(self.stem(picture))
        for layer in self.body:
            h = F.silu(layer(h))
        out: Tensor = self.out(h)
        return out


@dataclass(frozen=True, kw_only=True)
class ControlNetConfig:
    """The shape of a `ControlNet`.

    body: of the U-Net that it is a copy of. hint_channels: of the picture. factor: pixels that a place of x stands for, each way:
    1 in pixels, 8 in most latents. widths: of the encoder of the picture, empty = as published. unit: the picture is taken to
    [0, 1] first, as in published ones, not left in [-1, 1]. pooled: each residual is its mean over all places, so that of the
    picture its style is heard, and no places.
    """

    body: UNetConfig
    hint_channels: int = 3
    factor: int = 1
    widths: tuple[int, ...] = ()
    unit: bool = False
    pooled: bool = False

    def __post_init__(self) -> None:
        if not self.widths:
            object.__setattr__(self, "widths", widths_for(self.factor * self.body.patch))


class ControlNet(nn.Module):
    """Equation (1). net(x, t, hint, vector=, tokens=, mask=) -> one residual per skip, in order, and one for the bottom.

    x (B, C, H, W), t (B,), hint (B, hint_channels, factor H, factor W) in [-1, 1]. What does not change with x and t is `heard`
    once, and then `answered` with: net(...) = answered(x, t, heard(hint), ...).
    """

    room = "residuals"
    """Where `Cond` has what it says."""
    latent = False
    """Whether the hint is encoded as the pictures themselves are."""

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__()
        self.config, c = config, config.body
        self.body = Descent(c)
        self.hint = HintEncoder(config.hint_channels, c.widths[0], config.factor * c.patch, config.widths)
        self.zeros = nn.ModuleList(zeroed(nn.Conv2d(n, n, 1)) for n in (*self.body.skips, c.widths[-1]))

    def heard(self, hint: Tensor) -> tuple[Tensor, ...]:
        """Z E(c), (B, width of the stem, H / patch, W / patch)."""
        return (self.hint((hint + 1) / 2 if self.config.unit else hint),)

    def answered(
        self,
        x: Tensor,
        t: Tensor,
        heard: Sequence[Tensor],
        *,
        vector: Tensor | None = None,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> list[Tensor]:
        features = self.body.features(x, t, vector=vector, tokens=tokens, mask=mask, inner=heard)
        said = [zero(h) for zero, h in zip(self.zeros, features, strict=True)]
        return [r.mean((2, 3), keepdim=True) for r in said] if self.config.pooled else said

    def forward(self, x: Tensor, t: Tensor, hint: Tensor, **inputs: Any) -> list[Tensor]:
        return self.answered(x, t, self.heard(hint), **inputs)

    def spread(self, said: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What it says, as the net it was copied from takes it."""
        return tuple(said)

    @property
    def channels(self) -> int:
        """Of x."""
        return self.config.body.in_channels

    def silence(self) -> Iterable[nn.Module]:
        """The layers that start at zero."""
        return (*self.zeros, self.hint.out)


def control_of(net: UNet, factor: int = 1, hint_channels: int = 3, widths: tuple[int, ...] = ()) -> ControlNet:
    """A control of this U-Net with its weights, as yet silent; factor: as of `ControlNetConfig`."""
    device = next(net.parameters()).device
    made = ControlNet(ControlNetConfig(body=net.config, factor=factor, hint_channels=hint_channels, widths=widths)).to(device)
    own, theirs = made.body.state_dict(), net.state_dict()
    made.body.load_state_dict({k: theirs[k] for k in own})
    return made
