"""A matcher: which of many sentences a picture shows, where nobody could list all there is to see.

Two small nets bring the features x of a picture and the vector y of a sentence into one space (Radford et al., arXiv:2103.00020,
with both towers frozen below), u = f(x) / |f(x)| and v = g(y) / |g(y)|; `train/matching.py` says how.

What is kept of a trained matcher is f, and v of the sentences it is to choose from; the encoder of sentences is no longer needed.
Its word is retrieval: R@1 is the share of pictures for which the right sentence scores highest of all.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.card import remembers
from reverie.measure.features import imagenet
from reverie.nets.blocks import expect
from reverie.nets.matcher import JOINT, head

SEEN = 1280  # features of a picture


@remembers
class Matcher(nn.Module):
    """Reads one attribute: the sentence of `sentences` that fits a picture best."""

    told: Tensor

    def __init__(self, attribute: str, sentences: Sequence[str], hidden: int = 512) -> None:
        super().__init__()
        self.values = {attribute: tuple(sentences)}
        self.head = head(SEEN, hidden, 0.3)
        self.register_buffer("told", torch.zeros(len(sentences), JOINT))

    def forward(self, seen: Tensor) -> Tensor:
        """Features of EfficientNet-Lite0 (B, 1280) -> u (B, 128) of length 1."""
        expect("seen", seen, None, SEEN)
        return F.normalize(self.head(seen), dim=1)

    @torch.no_grad()
    def scores(self, pictures: np.ndarray) -> Tensor:
        """Cosines (N, sentences) of pictures uint8 (N, C, H, W)."""
        return self(torch.from_numpy(imagenet()(pictures)).float()) @ self.told.T

    def read(self, pictures: np.ndarray) -> list[dict[str, str]]:
        """uint8 (N, C, H, W) -> the sentence that fits best, for each picture."""
        ((name, sentences),) = self.values.items()
        return [{name: sentences[k]} for k in self.scores(pictures).argmax(1).tolist()]
