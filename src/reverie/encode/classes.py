"""A class label as a learned vector, added to the time embedding, or as the only token of a prompt."""

import difflib
from collections import Counter
from collections.abc import Sequence

import torch
from torch import nn

from reverie.card import remembers
from reverie.denoiser import Cond
from reverie.errors import UserError

FEW = 5
"""Names that are said where one is wrong."""


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
        if str(label).isascii() and str(label).isdigit() and int(label) < len(self.classes):
            return int(label)
        if label in (names := self._names()):
            return names[str(label)]
        raise UserError(f"'{label}' is not a class of this model: {self._known(str(label), list(names))}")

    def knows(self, text: str) -> bool:
        """Whether the text is the name of a class as it stands, whatever signs are in it."""
        return text in self.classes or text in self._names()

    def _names(self) -> dict[str, int]:
        """Each synonym of a label such as "tench, Tinca tinca", but for those that several classes share, and its class."""
        every = [(name, k) for k, label in enumerate(self.classes) for name in dict.fromkeys(map(str.strip, label.split(",")))]
        count = Counter(name for name, _ in every)
        return {name: k for name, k in every if name and count[name] == 1}

    def _known(self, label: str, names: Sequence[str]) -> str:
        """What may be said instead: some near names, never all of a thousand."""
        words = [name for name in names if not name.isdigit()]
        near = [] if label.isdigit() else difflib.get_close_matches(label, words, n=FEW, cutoff=0.5)
        near = near or words[:FEW]
        said = f", or names such as {', '.join(near)}" if near else ""
        return f"classes are 0 to {len(self.classes) - 1}{said}"

    def prompts(self, prompts: Sequence[str | int], size: tuple[int, int] | None = None) -> Cond:
        ids = torch.tensor([self.index(p) for p in prompts], device=self.table.weight.device)
        rows = self.table(ids)
        return Cond(tokens=rows[:, None]) if self.token else Cond(vector=rows)

    def empty(self, count: int) -> Cond:
        return self.prompts([""] * count)

    def notes(self, prompt: str | int) -> list[str]:
        return []
