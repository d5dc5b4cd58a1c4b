"""A class label as a learned vector."""

from collections.abc import Sequence

import torch
from torch import nn

from reverie.card import remembers
from reverie.denoiser import Cond
from reverie.errors import UserError, nearest


@remembers
class Classes(nn.Module):
    """Labels (names or numbers) -> Cond.vector (B, width); the last row of the table is the null class."""

    def __init__(self, classes: Sequence[str], width: int) -> None:
        super().__init__()
        self.classes, self.width = tuple(classes), width
        self.table = nn.Embedding(len(self.classes) + 1, width)

    def index(self, label: str | int) -> int:
        """The number of a label; '' is the null class."""
        if label == "":
            return len(self.classes)
        if isinstance(label, str) and label in self.classes:
            return self.classes.index(label)
        if str(label).isdigit() and int(label) < len(self.classes):
            return int(label)
        raise UserError(f"'{label}' is not a class of this model.{nearest(str(label), self.classes)}")

    def prompts(self, prompts: Sequence[str | int], size: tuple[int, int] | None = None) -> Cond:
        ids = torch.tensor([self.index(p) for p in prompts], device=self.table.weight.device)
        return Cond(vector=self.table(ids))

    def empty(self, count: int) -> Cond:
        return self.prompts([""] * count)

    def notes(self, prompt: str | int) -> list[str]:
        return []
