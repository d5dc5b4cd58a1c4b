"""Training of a matcher (`measure/matching.py`) on frozen features of pictures and vectors of sentences.

With u of pictures, v of sentences, a learnt temperature T, and P the pairs of a batch that belong together, which are several
for a picture where a concept is drawn in several styles (Khosla et al., arXiv:2004.11362),

    L = -mean_i log softmax_j(u_i . v_j / T) over P, and the same for v_j over the pictures, halved.              (1)
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reverie.nets.matcher import head
from reverie.train.loop import Key


class Matching:
    """Trains a matcher on pictures of concepts: seen (V, N, 1280), in V states of wear; concepts (N,) int64.

    sentences: for each concept, the vectors (S, D) of what it is called; one of each is drawn. asked (A, D): the vectors of the
    matcher's own sentences. held: the rows of pictures that are not trained on, each of which shows the sentence `shows` (H,).
    """

    def __init__(
        self,
        matcher: Any,
        seen: Tensor,
        concepts: np.ndarray,
        sentences: Sequence[Tensor],
        asked: Tensor,
        held: Tensor,
        shows: np.ndarray,
    ) -> None:
        width = asked.shape[1]
        self.matcher, self.seen, self.concepts, self.sentences = matcher, seen, concepts, sentences
        self.asked, self.held, self.shows, self.size = asked, held, torch.from_numpy(shows), len(concepts)
        self.text, self.heat = head(width, 256, 0.1), nn.Parameter(torch.tensor(-2.66))  # temperature 0.07
        self.module = nn.ModuleDict({"matcher": matcher, "text": self.text, "heat": nn.ParameterList([self.heat])})

    def loss(self, index: np.ndarray, key: Key) -> Tensor:
        rng = key.numpy("sentence")
        concepts = self.concepts[index]
        told = torch.stack([self.sentences[c][int(rng.random() * len(self.sentences[c]))] for c in concepts])
        worn = torch.from_numpy(rng.integers(len(self.seen), size=len(index)))
        u = self.matcher(self.seen[worn, torch.from_numpy(index)])
        same = torch.from_numpy(concepts[:, None] == concepts)
        return contrast(u, self.tell(told), same, self.heat.exp())

    def tell(self, vectors: Tensor) -> Tensor:
        """v (B, 128) of length 1."""
        return nn.functional.normalize(self.text(vectors), dim=1)

    @torch.no_grad()
    def validate(self) -> float:
        """Share of held-out pictures that are not matched with what they show."""
        self.finish()
        best = (self.matcher(self.held) @ self.matcher.told.T).argmax(1)
        return float((best != self.shows).double().mean())

    @torch.no_grad()
    def finish(self) -> dict[str, float]:
        """The matcher's sentences get their places."""
        self.matcher.told.copy_(self.tell(self.asked))
        return {}


def contrast(u: Tensor, v: Tensor, same: Tensor, temperature: Tensor) -> Tensor:
    """Equation (1) per pair (B,); same (B, B) bool, the diagonal among it."""
    logits = u @ v.T / temperature
    weights = same.to(logits)
    rows = -(weights * logits.log_softmax(1)).sum(1) / weights.sum(1)
    columns = -(weights * logits.log_softmax(0)).sum(0) / weights.sum(0)
    return (rows + columns) / 2
