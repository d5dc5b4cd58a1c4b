"""A text encoder learns what words mean before it conditions anything: it reads a picture's attributes in its caption.

Where captions are made from attributes, this teaches synonyms and which colour belongs to which thing from text alone, and as much
text as is wanted: every caption is new. A diffusion model would have to find out through pictures. "Not told" is one more value of
every attribute: without it the encoder would learn which combinations are rare, and read them into captions that say otherwise.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from reverie.encode.concepts import Concepts
from reverie.nets.precision import inside
from reverie.train.loop import Key

Told = tuple[str, Mapping[str, Sequence[str]]]
"""A caption, and for each attribute it tells the values it leaves possible."""

EMPTY = 0.02  # share of captions that tell nothing


class Wording:
    """Trains an encoder of concepts. draw(rng): a caption with what it tells. held: captions to validate with."""

    size = 1  # there is no order: every caption is new

    def __init__(
        self,
        encoder: Concepts,
        draw: Callable[[np.random.Generator], Told],
        held: Sequence[Told],
        *,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.encoder, self.draw, self.held, self.autocast = encoder, draw, held, autocast
        self.module = nn.ModuleDict({"encoder": encoder})

    def loss(self, index: np.ndarray, key: Key) -> Tensor:
        rng = key.numpy("caption")
        return self.misread([("", {}) if rng.random() < EMPTY else self.draw(rng) for _ in index])

    def misread(self, told: Sequence[Told]) -> Tensor:
        """Cross-entropy per caption (B,), the mean over attributes; the values left possible are equally likely."""
        with inside(self.autocast, self.encoder.positions.device):
            logits = self.encoder.logits([caption for caption, _ in told])
        each = [
            nn.functional.cross_entropy(logit.float(), self._targets(told, name), reduction="none")
            for name, logit in logits.items()
        ]
        return torch.stack(each).mean(0)

    def _targets(self, told: Sequence[Told], name: str) -> Tensor:
        """Probabilities (B, 1 + values); the first is "not told"."""
        place = {value: k for k, value in enumerate(self.encoder.values[name], 1)}
        out = torch.zeros(len(told), 1 + len(place))
        for row, (_, said) in zip(out, told, strict=True):
            possible = [place[value] for value in said.get(name, ())] or [0]
            row[possible] = 1 / len(possible)
        return out

    @torch.no_grad()
    def validate(self) -> float:
        """Mean cross-entropy of the held-out captions."""
        return float(self.misread(self.held).mean())
