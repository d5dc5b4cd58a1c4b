"""A small text encoder that spells: the meaning of a word is put together from the pieces it is written with.

A word is a few rows of one table (Bojanowski et al., arXiv:1607.04606): rows of its own and rows of its runs of letters,

    e = sum_k T[own_k] + mean_j T[run_j],                                                                 (1)

found by hashing, so that there is no vocabulary: rows are shared, and two rows of its own make a word almost surely differ from
every other (Svenstrup et al., arXiv:1709.03933). A word never seen before begins with what its letters tell. A transformer as in
`text` then reads the words in context; row 0 is for what is not there. The pooled vector has the width and the unit length of
those that a larger encoder gives, from which this one is distilled (Reimers & Gurevych, arXiv:2004.09813).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.blocks import expect
from reverie.nets.text import TextBlock

OWN = 2  # rows of a word itself, before those of its runs


@dataclass(frozen=True, kw_only=True)
class LettersConfig:
    """rows, narrow: of the table. width, depth, heads: of the transformer. length: the most words it reads. runs: the most runs of
    letters of a word. out: width of the pooled vector."""

    rows: int = 20000
    narrow: int = 128
    width: int = 256
    depth: int = 2
    heads: int = 4
    length: int = 24
    runs: int = 40
    out: int = 384

    def __post_init__(self) -> None:
        if self.rows < 3 or self.runs < 1 or self.length < 1:
            raise ValueError(
                f"a table needs 3 rows, and runs and length are at least 1: got {self.rows}, {self.runs}, {self.length}"
            )


class LettersTransformer(nn.Module):
    """ids (B, L, 2 + runs) int64, 0 = none -> tokens (B, L, width), pooled (B, out) of length 1. mask (B, L) bool, True = real."""

    def __init__(self, config: LettersConfig) -> None:
        super().__init__()
        self.config = c = config
        self.table = nn.EmbeddingBag(c.rows, c.narrow, mode="sum", padding_idx=0)
        self.widen = nn.Linear(c.narrow, c.width)
        self.positions = nn.Parameter(torch.randn(c.length, c.width) * 0.02)
        self.blocks = nn.ModuleList(TextBlock(c.width, c.heads) for _ in range(c.depth))
        self.norm = nn.LayerNorm(c.width)
        self.pool = nn.Linear(c.width, c.out)
        with torch.no_grad():
            self.table.weight.normal_(std=0.5)[0] = 0

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        c = self.config
        expect("ids", ids, None, None, OWN + c.runs)
        expect("mask", mask, *ids.shape[:2])
        if ids.shape[1] > c.length:
            raise ValueError(f"ids: expected at most {c.length} words, got {ids.shape[1]}")
        x = self.widen(self._spelt(ids)) + self.positions[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        keep = mask[..., None].to(x.dtype)
        pooled = self.pool((x * keep).sum(1) / keep.sum(1).clamp_min(1))
        return x, F.normalize(pooled.float(), dim=1)

    def _spelt(self, ids: Tensor) -> Tensor:
        """Equation (1): (B, L, 2 + runs) -> (B, L, narrow)."""
        flat = ids.flatten(0, 1)
        own, runs = flat[:, :OWN], flat[:, OWN:]
        count = (runs > 0).sum(1, keepdim=True).clamp_min(1)
        out: Tensor = (self.table(own) + self.table(runs) / count).unflatten(0, ids.shape[:2])
        return out
