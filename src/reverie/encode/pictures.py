"""What a net is told of a picture: channels beside those of the diffusion, `Cond.concat`.

Nets that fill holes (Rombach et al., arXiv:2112.10752, section 4.5) see the mask and the rest of the picture; nets that follow
instructions (Brooks et al., arXiv:2211.09800) see the picture; nets of ours see a damaged picture, and a plane that says where it
has a hole, or how much noise lies on it (`data/damages.py`).
"""

from collections.abc import Sequence
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


@remembers
class Damaged(nn.Module):
    """A picture that is to be made whole: [encoded picture, plane]. damages: what was done to those that were learnt from.

    factor: how many times smaller pictures were, where that is among it; else 1. level: noise put on them in use.
    """

    def __init__(self, damages: Sequence[str], factor: int = 1, level: float = 0.0) -> None:
        super().__init__()
        self.damages, self.factor, self.level = tuple(damages), factor, level

    def picture(self, codec: Any, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, C + 1, h, w) of pixels (B, 3, H, W) in [-1, 1]; mask (B, 1, H, W) is 1 where there is a hole."""
        plane = pixels.new_zeros(len(pixels), 1, *pixels.shape[2:]) if mask is None else (mask >= 0.5).to(pixels)
        return self.told(codec, pixels * (1 - plane), plane)

    def told(self, codec: Any, pixels: Tensor, plane: Tensor) -> Tensor:
        """The same of what is damaged already."""
        z = codec.encode(pixels)
        return torch.cat([z, F.interpolate(plane, z.shape[2:])], 1)
