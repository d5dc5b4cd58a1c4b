"""How different two pictures look: a distance of features rather than of pixels.

Zhang et al., arXiv:1801.03924: with f_s the features of stage s of a network that reads pictures, of unit length at every place,

    d(x, y) = mean over stages and places of |f_s(x) - f_s(y)|^2.                                                 (1)

The networks of the paper, AlexNet and VGG with weights per channel fitted to judgements of people (LPIPS), cannot be had without
a download; these are five stages of EfficientNet-Lite0, all channels weighing the same. The numbers compare with each other, and
not with published ones.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.encode.lite0 import net as lite0

Distance = Callable[[Tensor, Tensor], Tensor]
STAGES = (0, 2, 4, 10)
"""Blocks behind which features are taken, besides the stem: one of 16, 24, 40 and 112 channels, at 1/2 to 1/16 of the size."""
TINY = 1e-8


def perceptual() -> Distance:
    """Eq. (1) of pictures (B, 1 or 3, H, W) in [-1, 1], differentiable: (B,). UserError where the extra `metrics` is missing."""
    net = lite0().to(memory_format=torch.channels_last)

    def distance(x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            true = stages(net, x)
        gaps = [(_unit(a) - _unit(b)).square().sum(1).flatten(1).mean(1) for a, b in zip(true, stages(net, y), strict=True)]
        return torch.stack(gaps).mean(0)

    return distance


def stages(net: Any, x: Tensor) -> list[Tensor]:
    """Features of the stem and behind each of `STAGES`; x (B, 1 or 3, H, W) in [-1, 1]."""
    x = (127.5 * x + 0.5) / 128  # as the network was trained: grey levels less 127, over 128
    h = net._swish(net._bn0(net._conv_stem(x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last))))
    found = [h]
    for i, block in enumerate(net._blocks[: STAGES[-1] + 1]):
        h = block(h)
        if i in STAGES:
            found.append(h)
    return found


def _unit(h: Tensor) -> Tensor:
    """Of length one at every place, in float32."""
    return F.normalize(h.float(), dim=1, eps=TINY)
