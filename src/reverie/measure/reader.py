"""Readers: small classifiers that say what a picture shows, and whose features distances can be taken in.

A reader has one head per attribute ("hair", "skin", ... or "class"), each with a fixed list of values. It is trained apart from any
generator, on real pictures only, so it is an independent witness of what was drawn.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.card import card_of, rebuild
from reverie.errors import UserError, nearest
from reverie.files import load_tensors
from reverie.nets.classifier import Classifier, ClassifierConfig

PARTS = Path(__file__).parent / "parts"
PREFIX = "codec."  # a reader lies where a system file keeps its codec: a net without a denoiser


class Reader(nn.Module):
    """A classifier with the names of what it reads.

    values: head -> the names of its classes, in order. size: pictures are brought to size x size pixels first.
    """

    def __init__(self, net: Classifier, values: Mapping[str, Sequence[str]], size: int) -> None:
        super().__init__()
        self.net, self.size = net, size
        self.values = {head: tuple(names) for head, names in values.items()}

    @property
    def about(self) -> dict[str, Any]:
        """The reader's card: its net, what its heads mean, and the size it reads."""
        return {"net": card_of(self.net.config), "values": {k: list(v) for k, v in self.values.items()}, "size": self.size}

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """x (B, C, H, W) in [-1, 1] -> features (B, F), {head: logits (B, classes)}."""
        out: tuple[Tensor, dict[str, Tensor]] = self.net(x)
        return out

    @torch.no_grad()
    def features(self, pictures: np.ndarray, batch: int = 100) -> np.ndarray:
        """uint8 (N, C, H, W) -> float64 (N, F): the pooled activations, a space for distances."""
        blocks = [self.net.features(self.signal(pictures[i : i + batch])) for i in range(0, len(pictures), batch)]
        return torch.cat(blocks).double().numpy()

    @torch.no_grad()
    def read(self, pictures: np.ndarray, batch: int = 100) -> list[dict[str, str]]:
        """uint8 (N, C, H, W) -> the likeliest value of every head, for each picture."""
        found: list[dict[str, str]] = []
        for i in range(0, len(pictures), batch):
            logits = self(self.signal(pictures[i : i + batch]))[1]
            best = {head: logit.argmax(1).tolist() for head, logit in logits.items()}
            found += [
                {head: self.values[head][k] for head, k in zip(best, row, strict=True)} for row in zip(*best.values(), strict=True)
            ]
        return found

    def signal(self, pictures: np.ndarray) -> Tensor:
        """uint8 (B, C, H, W) -> float32 (B, C', size, size) in [-1, 1], C' the reader's own; gray becomes colour and back."""
        x = torch.from_numpy(np.ascontiguousarray(pictures)).float() / 127.5 - 1
        channels = self.net.config.in_channels
        if x.shape[1] != channels:
            x = x.mean(1, keepdim=True).expand(-1, channels, -1, -1)
        if x.shape[2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        return x.contiguous(memory_format=torch.channels_last)


def load_reader(name: str | Path) -> Reader:
    """A reader that comes with the package ("avatars", "fashion"), or one in a file that `reverie train avatars-reader` made.

    Raises UserError where it is missing, cut short, not a reader, or does not fit its card.
    """
    path = Path(name)
    if not path.suffix:
        known = sorted(p.stem for p in PARTS.glob("*.safetensors"))
        if str(name) not in known:
            raise UserError(f"no reader is called '{name}'.{nearest(str(name), known)}")
        path = PARTS / f"{name}.safetensors"
    tensors, metadata = load_tensors(path)
    card = metadata.get("reverie.card")
    about = card.get("about", {}).get("reader") if isinstance(card, dict) else None
    if not isinstance(about, dict) or not {"net", "values", "size"} <= set(about):
        raise UserError(f"{path} is not a reader: make one with `reverie train avatars-reader` or `reverie train fashion-reader`")
    with torch.device("meta"):
        reader = Reader(Classifier(rebuild(about["net"], (ClassifierConfig,), f"{path}: net")), about["values"], about["size"])
    try:
        own = {k.removeprefix(PREFIX): v.float() if v.is_floating_point() else v for k, v in tensors.items()}
        reader.load_state_dict(own, assign=True)
    except RuntimeError as error:
        line = " ".join(str(error).splitlines()[1:2]).strip()
        raise UserError(f"{path}: the weights do not fit the reader's card ({line}); get the file again") from None
    return reader.eval().requires_grad_(False)
