"""CLIP's image encoder through transformers (Radford et al., arXiv:2103.00020): pictures -> vectors, of each or of its places."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the colours in [0, 1] that it was trained on."""


class ClipVision(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1], of any size -> (B, E), or of its last layer but one (B, L, D).

    net: transformers' CLIPVisionModelWithProjection. The shorter side is resized to what it reads, and the middle cut out.
    """

    place: torch.device = torch.device("cpu")

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    @property
    def side(self) -> int:
        """Pixels of what it reads, each way."""
        return int(self.net.config.image_size)

    def width(self, places: bool) -> int:
        """Entries of what it says of a picture, or of each place of it."""
        return int(self.net.config.hidden_size if places else self.net.config.projection_dim)

    def said(self, pictures: Tensor, places: bool) -> Tensor:
        """What it says of them."""
        return self._see(torch.stack([self._read(picture) for picture in pictures.detach().float().cpu()]), places)

    def unsaid(self, pictures: Tensor, places: bool) -> Tensor:
        """What stands for no picture: of each place what it says of nothing, and else zeros (IP-Adapter)."""
        if not places:
            return torch.zeros(len(pictures), self.width(False), device=self.place)
        return self._see(torch.zeros(len(pictures), 3, self.side, self.side), places)

    def _see(self, x: Tensor, places: bool) -> Tensor:
        own = next(self.net.parameters()).dtype
        out = self.net(x.to(self.place, own), output_hidden_states=places)
        return (out.hidden_states[-2] if places else out.image_embeds).float()

    def _read(self, picture: Tensor) -> Tensor:
        """(3, H, W) -> (3, side, side), as its pictures were read when it was trained."""
        levels = ((picture.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        image = Image.fromarray(levels.permute(1, 2, 0).numpy())
        short, side = min(image.size), self.side
        image = image.resize((int(side * image.width / short), int(side * image.height / short)), Image.Resampling.BICUBIC)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        cut = np.asarray(image.crop((left, top, left + side, top + side)), np.float32) / 255
        return torch.from_numpy((cut - MEAN) / DEVIATION).permute(2, 0, 1).float()
