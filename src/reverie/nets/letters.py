"""A small text encoder that knows words, and spells those it does not know.

A known word is a row of a table; an unknown one is put together from rows of the runs of letters it is written with (Bojanowski et
al., arXiv:1607.04606), which are found by hashing,

    e = T[word]   or   mean_j R[run_j].                                                                   (1)

A transformer as in `text` then reads the words in context; row 0 is for what is not there. The pooled vector has the width and the
unit length of those that a larger encoder gives, from which this one is distilled (Reimers & Gurevych, arXiv:2004.09813).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.blocks import expect
from reverie.nets.text import TextBlock


@dataclass(frozen=True, kw_only=True)
class LettersConfig:
    """words, rows, narrow: how many rows of words and of runs there are, and their width. width, depth, heads: of the
    transformer. length: the most words it reads. runs: the most runs of letters of a word. out: width of the pooled vector."""

    words: int = 20000
    rows: int = 6000
    narrow: int = 112
    width: int = 256
    depth: int = 2
    heads: int = 4
    length: int = 24
    runs: int = 40
    out: int = 384

    def __post_init__(self) -> None:
        if self.rows < 3 or self.words < 3 or self.runs < 1 or self.length < 1:
            raise ValueError(f"tables need 3 rows, and runs and length are at least 1: got {self.rows}, {self.runs}, {self.length}")


class LettersTransformer(nn.Module):
    """ids (B, L, 1 + runs) int64, the word and its runs, 0 = none -> tokens (B, L, width), pooled (B, out) of length 1.

    mask (B, L) bool, True = real.
    """

    def __init__(self, config: LettersConfig) -> None:
        super().__init__()
        self.config = c = config
        self.table = nn.Embedding(c.words, c.narrow, padding_idx=0)
        self.runs = nn.EmbeddingBag(c.rows, c.narrow, mode="mean", padding_idx=0)
        self.widen = nn.Linear(c.narrow, c.width)
        self.positions = nn.Parameter(torch.randn(c.length, c.width) * 0.02)
        self.blocks = nn.ModuleList(TextBlock(c.width, c.heads) for _ in range(c.depth))
        self.norm = nn.LayerNorm(c.width)
        self.pool = nn.Linear(c.width, c.out)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        c = self.config
        expect("ids", ids, None, None, 1 + c.runs)
        expect("mask", mask, *ids.shape[:2])
        if ids.shape[1] > c.length:
            raise ValueError(f"ids: expected at most {c.length} words, got {ids.shape[1]}")
        spelt = self.table(ids[..., 0]) + self.runs(ids[..., 1:].flatten(0, 1)).unflatten(0, ids.shape[:2])  # one of them is 0
        x = self.widen(spelt) + self.positions[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        keep = mask[..., None].to(x.dtype)
        pooled = self.pool((x * keep).sum(1) / keep.sum(1).clamp_min(1))
        return x, F.normalize(pooled.float(), dim=1)
