"""What a net is told of a picture: channels beside those of the diffusion, `Cond.concat`.

Nets that fill holes (Rombach et al., arXiv:2112.10752, section 4.5) see the mask and the rest of the picture; nets that follow
instructions (Brooks et al., arXiv:2211.09800) see the picture.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.card import remembers


@remembers
class Hidden(nn.Module):
    """A picture with a hole: [mask, encoded rest]; the hole is grey."""

    def picture(self, codec: Any, pixels: Tensor, mask: Tensor) -> Tensor:
        """(B, 1 + C, h, w) of pixels (B, 3, H, W) in [-1, 1] and mask (B, 1, H, W), 1 where it is to be filled."""
        hole = (mask >= 0.5).to(pixels)
        z = codec.encode(pixels * (1 - hole))
        return torch.cat([F.interpolate(hole, z.shape[2:]), z], 1)


@remembers
class Instructed(nn.Module):
    """A picture to be changed as the prompt says: what the autoencoder makes of it, in the autoencoder's own scale."""

    def picture(self, codec: Any, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, C, h, w) of pixels (B, 3, H, W) in [-1, 1]."""
        z: Tensor = codec.encode(pixels)
        scale, shift = getattr(codec, "scale", None), getattr(codec, "shift", None)
        return z if scale is None or shift is None else z * scale[:, None, None] + shift[:, None, None]
