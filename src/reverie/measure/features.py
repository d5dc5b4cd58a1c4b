"""Spaces to compare pictures in: callables from uint8 (N, C, H, W) to float64 (N, F).

`imagenet`      the pooled last layer of EfficientNet-Lite0 (Tan and Le, arXiv:1905.11946; ImageNet-1k; Apache-2.0), F = 1280
`Reader.features`   those of a classifier trained on the same kind of pictures
`thumbnails`    the pictures themselves, made small: nearness there is nearness to the eye, and costs nothing
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from reverie.encode.lite0 import layers, prepared
from reverie.encode.lite0 import net as lite0

Features = Callable[[np.ndarray], np.ndarray]
SIZE = 160  # pixels; the network was trained at 224 and reads from about 160 upwards


def imagenet(batch: int = 32) -> Features:
    """EfficientNet-Lite0 at 160 px, bilinear. Distances in it compare with each other, not with published ones of Inception.

    Raises UserError where the two packages of the extra `metrics` are missing.
    """
    net = lite0()

    @torch.no_grad()
    def extract(pictures: np.ndarray) -> np.ndarray:
        some = (_prepared(pictures[i : i + batch], SIZE) for i in range(0, len(pictures), batch))
        return np.asarray(torch.cat([net.extract_features(x).mean((2, 3)) for x in some]).double().numpy())

    return extract


@torch.no_grad()
def places(pictures: np.ndarray, across: int, batch: int = 32) -> torch.Tensor:
    """What EfficientNet-Lite0 sees at across x across places of pictures uint8 (N, C, H, W): float16 (N, across^2, 432).

    The last 112 channels of 16 pixels a place beside the last 320, which are of 32 pixels and are spread over four places; all of
    mean 0 and deviation 1 over the data. The pictures are brought to 16 pixels a place first.
    """
    net, blocks = lite0(), []
    for i in range(0, len(pictures), batch):
        fine, coarse, _ = layers(net, _prepared(pictures[i : i + batch], 16 * across))
        blocks.append(torch.cat((fine, F.interpolate(coarse, scale_factor=2, mode="bilinear")), 1).flatten(2).mT.half())
    seen = torch.cat(blocks).contiguous()
    for k in range(seen.shape[2]):  # channel by channel: all of it in float32 would be large
        one = seen[..., k].float()
        seen[..., k] = ((one - one.mean()) / one.std().clamp_min(1e-6)).half()
    return seen


def _prepared(pictures: np.ndarray, size: int) -> torch.Tensor:
    return prepared(torch.from_numpy(np.ascontiguousarray(pictures)).float(), size)


def thumbnails(size: int = 16) -> Features:
    """Pictures averaged to size x size and laid flat: F = C size^2, in [0, 1]; distances are root-mean-square grey levels."""

    def shrink(pictures: np.ndarray) -> np.ndarray:
        starts = range(0, len(pictures), 500)
        blocks = (torch.from_numpy(np.ascontiguousarray(pictures[i : i + 500])).float() for i in starts)
        flat = torch.cat([F.adaptive_avg_pool2d(x, size).flatten(1) for x in blocks]).double().numpy() / 255
        return np.asarray(flat / np.sqrt(flat.shape[1]))

    return shrink
