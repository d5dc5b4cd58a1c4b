"""A text encoder learns what words mean before it conditions anything: it predicts a picture's attributes from its caption.

Where captions are made from attributes, this teaches synonyms and which colour belongs to which thing from text alone, and as much
text as is wanted: every caption is new. A diffusion model would have to find out through pictures. "Not told" is one more value of
every attribute: without it the encoder would learn which combinations are rare, and read them into captions that say otherwise.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from reverie.encode.words import Words
from reverie.train.loop import Key

Told = tuple[str, Mapping[str, str | None]]
"""A caption, and what it tells of each attribute: None where it leaves the value open; nothing where it is silent."""


class Wording:
    """Trains `encoder` with one linear head per attribute on its pooled vector.

    draw(rng): a caption with what it tells. values: what each attribute can be. held: captions to validate with.
    """

    size = 1  # there is no order: every caption is new

    def __init__(
        self,
        encoder: Words,
        draw: Callable[[np.random.Generator], Told],
        values: Mapping[str, Sequence[str]],
        held: Sequence[Told],
        *,
        bf16: bool = False,
    ) -> None:
        self.encoder, self.draw, self.values, self.held, self.bf16 = encoder, draw, values, held, bf16
        width = encoder.config.width
        self.heads = nn.ModuleDict({name: nn.Linear(width, 1 + len(known)) for name, known in values.items()})
        self.module = nn.ModuleDict({"encoder": encoder, "heads": self.heads})

    def loss(self, index: np.ndarray, key: Key) -> Tensor:
        rng = key.numpy("caption")
        return self.misread([self.draw(rng) for _ in index])

    def misread(self, told: Sequence[Told]) -> Tensor:
        """Cross-entropy per caption (B,), the mean over attributes; one whose value is left open counts as read."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            pooled = self.encoder.prompts([caption for caption, _ in told]).vector
            logits = {name: head(pooled).float() for name, head in self.heads.items()}
        each = [
            nn.functional.cross_entropy(logits[name], self._targets(told, name), ignore_index=-1, reduction="none")
            for name in self.values
        ]
        return torch.stack(each).mean(0)

    def _targets(self, told: Sequence[Told], name: str) -> Tensor:
        known: dict[str | None, int] = {None: -1} | {value: k for k, value in enumerate(self.values[name], 1)}
        return torch.tensor([known[t[name]] if name in t else 0 for _, t in told])

    @torch.no_grad()
    def validate(self) -> float:
        """Mean cross-entropy of the held-out captions."""
        return float(self.misread(self.held).mean())
