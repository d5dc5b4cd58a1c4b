"""Free text through a bottleneck of named concepts: what a prompt tells of each attribute, as probabilities.

A concept bottleneck (Koh et al., arXiv:2007.04612) for data whose captions speak of known attributes. A denoiser learns from so
plain a condition several times faster than from the features of a text encoder, and a person can read what was understood.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from reverie.card import remembers
from reverie.denoiser import Cond
from reverie.encode.learnt import Learnt
from reverie.encode.pieces import Piece
from reverie.encode.words import INSTEAD, Words, split
from reverie.nets.text import TextConfig


@remembers
class Concepts(Words):
    """Prompts -> Cond.vector (B, width): for each attribute the probabilities of "not told" and of its values.

    values: attribute -> what it can be. Each group is scaled so that its entries vary by about 1. apart: the attributes come also
    as tokens (B, attributes, width), each with zeros where the others have their place, for nets that attend to what they are told.
    A word that it learns later is a vector of this width, and added.
    """

    def __init__(
        self, vocabulary: Sequence[str], text: TextConfig, values: Mapping[str, Sequence[str]], apart: bool = False
    ) -> None:
        super().__init__(vocabulary, text)
        self.apart = apart
        self.values = {name: tuple(known) for name, known in values.items()}
        self.sizes = [1 + len(known) for known in self.values.values()]
        self.width = sum(self.sizes)
        self.heads = nn.Linear(text.width, self.width)

    def learnt(self) -> Learnt:
        """Words that it learnt later."""
        if "later" not in self.__dict__:  # made here: an encoder that is opened is built without numbers first
            object.__setattr__(self, "later", Learnt(self.width))  # no part of it: what is saved of it stays the same
        later: Learnt = self.__dict__["later"]
        return later

    def initial(self, text: str) -> Tensor:
        """(1, width): what a new word may begin as, which is nothing, or what a text tells beyond nothing."""
        with torch.no_grad():
            told, nothing = (self.prompts([each]).vector for each in (text, ""))
        assert told is not None and nothing is not None
        return told - nothing

    def _parted(self, prompt: str) -> Iterable[tuple[str, Sequence[int]]]:
        return [(text, ids) for text, ids in self.learnt().parted(prompt) if not ids]

    def _added(self, prompts: Sequence[str]) -> Sequence[Tensor]:
        """What the words that it learnt later tell of each attribute."""
        learnt = self.learnt()
        rows = [[i for _, ids in learnt.parted(prompt) for i in ids] for prompt in prompts]
        vectors = learnt.table.to(self.heads.weight)
        added = torch.stack([vectors[[-1 - i for i in row]].sum(0) for row in rows])
        return added.split(self.sizes, 1)

    def logits(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Attribute -> logits (B, 1 + values); the first is "not told"."""
        pooled = self(*self.tokenise(prompts))[1]
        return dict(zip(self.values, self.heads(pooled).split(self.sizes, 1), strict=True))

    def prompts(self, prompts: Sequence[str], size: tuple[int, int] | None = None) -> Cond:
        told = [math.sqrt(logit.shape[1]) * logit.softmax(1) for logit in self.logits(prompts).values()]
        if self.learnt().names:
            told = [group + more for group, more in zip(told, self._added(prompts), strict=True)]
        return Cond(vector=torch.cat(told, 1), tokens=self._alone(told) if self.apart else None)

    def _alone(self, told: Sequence[Tensor]) -> Tensor:
        """Each group where it stands in the vector, and zeros around it: (B, attributes, width)."""
        first = [sum(self.sizes[:i]) for i in range(len(self.sizes))]
        return torch.stack([pad(part, (at, self.width - at - part.shape[1])) for at, part in zip(first, told, strict=True)], 1)

    def parted(self) -> "Concepts":
        """The same encoder, with the attributes as tokens too."""
        again = Concepts(self.vocabulary, self.config, self.values, apart=True)
        again.load_state_dict(self.state_dict())
        return again.train(self.training).requires_grad_(next(self.parameters()).requires_grad)

    @torch.no_grad()
    def understood(self, prompt: str) -> dict[str, str]:
        """The likeliest value of each attribute that the prompt tells."""
        best = {name: int(logit.argmax(1)) for name, logit in self.logits([prompt]).items()}
        return {name: self.values[name][k - 1] for name, k in best.items() if k}

    def pieces(self, prompt: str) -> list[Piece]:
        """What each row of the tokens stands for: an attribute, whatever is said of it."""
        return [("attribute", name) for name in self.values]

    def places(self, word: str, prompt: str) -> list[int]:
        """The rows of the attribute of this name, or of those that the word tells of."""
        told = {word} if word in self.values else set(self.understood(word))
        return [i for i, name in enumerate(self.values) if name in told]

    def notes(self, prompt: str) -> list[str]:
        return super().notes(prompt) + self._unheard(split(prompt))

    def _unheard(self, words: Sequence[str]) -> list[str]:
        """Each "no" in vain: with it and without it, the word behind it tells the same."""
        out = []
        for i in (k for k, word in enumerate(words[:-1]) if word == "no" and word in self.ids):
            texts = words, [*words[:i], *words[i + 1 :]], [*words[:i], *words[i + 2 :]]
            denied, said, silent = (set(self.understood(" ".join(text)).items()) for text in texts)
            if (denied & said) - silent:
                out.append(f"'no {words[i + 1]}' is read as '{words[i + 1]}': {INSTEAD}")
        return out
