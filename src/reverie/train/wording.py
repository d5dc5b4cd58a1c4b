"""A text encoder learns what words mean before it conditions anything: it predicts a picture's attributes from its caption.

Where the attributes of the training pictures are known, this teaches synonyms and which colour belongs to which thing in a
minute of text alone; a diffusion model would have to find out through pictures. An attribute the caption does not tell is
predicted as its frequency, which is what should be known of it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reverie.train.jobs import Prompt
from reverie.train.loop import Key


class Wording:
    """Trains `encoder` with one linear head per attribute on its pooled vector.

    prompt(i, rng): a caption of example i. targets: attribute -> (N,) int64, -1 where it has no value.
    """

    def __init__(
        self,
        encoder: Any,
        prompt: Prompt,
        targets: Mapping[str, np.ndarray],
        held_prompt: Prompt,
        held_targets: Mapping[str, np.ndarray],
    ) -> None:
        self.encoder, self.prompt, self.targets = encoder, prompt, targets
        self.held_prompt, self.held_targets = held_prompt, held_targets
        width = encoder.config.width
        self.heads = nn.ModuleDict({name: nn.Linear(width, int(values.max()) + 1) for name, values in targets.items()})
        self.module = nn.ModuleDict({"encoder": encoder, "heads": self.heads})
        self.size = len(next(iter(targets.values())))

    def loss(self, index: np.ndarray, key: Key) -> Tensor:
        rng = key.numpy("caption")
        said = [self.prompt(int(i), rng) for i in index]
        return self.misread(said, {name: values[index] for name, values in self.targets.items()})

    def misread(self, said: list[Any], targets: Mapping[str, np.ndarray]) -> Tensor:
        """Cross-entropy per caption (B,), the mean over attributes."""
        pooled = self.encoder.prompts(said).vector
        entropy = nn.functional.cross_entropy
        each = [
            entropy(self.heads[name](pooled), torch.from_numpy(values), ignore_index=-1, reduction="none")
            for name, values in targets.items()
        ]
        return torch.stack(each).mean(0)

    @torch.no_grad()
    def validate(self) -> float:
        """Mean cross-entropy of fixed captions of the held-out pictures."""
        count = len(next(iter(self.held_targets.values())))
        said = [self.held_prompt(i, np.random.default_rng(i)) for i in range(count)]
        return float(self.misread(said, self.held_targets).mean())
