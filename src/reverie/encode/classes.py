"""A class label as a learned vector, added to the time embedding, or as the only token of a prompt."""

from collections.abc import Sequence

import torch
from torch import nn

from reverie.card import remembers
from reverie.denoiser import Cond
from reverie.errors import UserError, nearest


@remembers
class Classes(nn.Module):
    """Labels (names or numbers) -> Cond.vector (B, width), or tokens (B, 1, width) where they are said as a `token`.

    null: the last row of the table is the null class; without it there is no picture of no class, and no guidance away from it.
    """

    def __init__(self, classes: Sequence[str], width: int, null: bool = True, token: bool = False) -> None:
        super().__init__()
        self.classes, self.width, self.null, self.token = tuple(classes), width, null, token
        self.table = nn.Embedding(len(self.classes) + null, width)

    def index(self, label: str | int) -> int:
        """The number of a label; '' is the null class. UserError where there is none of the name."""
        if label == "" and self.null:
            return len(self.classes)
        if label == "":
            raise UserError(f"this model was not trained without a class: name one of its {len(self.classes)}, and use guidance 1")
        if isinstance(label, str) and label in self.classes:
            return self.classes.index(label)
        if str(label).isdigit() and int(label) < len(self.classes):
            return int(label)
        raise UserError(f"'{label}' is not a class of this model.{nearest(str(label), self.classes)}")

    def prompts(self, prompts: Sequence[str | int], size: tuple[int, int] | None = None) -> Cond:
        ids = torch.tensor([self.index(p) for p in prompts], device=self.table.weight.device)
        rows = self.table(ids)
        return Cond(tokens=rows[:, None]) if self.token else Cond(vector=rows)

    def empty(self, count: int) -> Cond:
        return self.prompts([""] * count)

    def notes(self, prompt: str | int) -> list[str]:
        return []
