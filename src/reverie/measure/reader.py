"""Readers: small classifiers that say what a picture shows, and whose features distances can be taken in.

A reader has one head per attribute ("hair", "skin", ... or "class"), each with a fixed list of values. It is trained apart from any
generator, on real pictures only, so it is an independent witness of what was drawn.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.card import remembers
from reverie.errors import UserError
from reverie.nets.classifier import Classifier, ClassifierConfig


@remembers
class Reader(nn.Module):
    """A classifier with the names of what it reads.

    values: head -> the names of its classes, in order. size: pictures are brought to size x size pixels first.
    """

    def __init__(self, net: ClassifierConfig, values: Mapping[str, Sequence[str]], size: int) -> None:
        super().__init__()
        self.net, self.size = Classifier(net), size
        self.values = {head: tuple(names) for head, names in values.items()}
        if {head: len(names) for head, names in self.values.items()} != dict(net.heads):
            raise UserError(f"a reader's values {self.values} are not those of its net's heads {dict(net.heads)}")

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
