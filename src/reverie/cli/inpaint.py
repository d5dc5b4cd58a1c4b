"""`reverie inpaint photo.png --mask hole.png "a red hat"`: a part of a picture drawn anew."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from reverie.cli.changing import Changing
from reverie.cli.drawing import draw, read
from reverie.errors import UserError
from reverie.systems import System
from reverie.tasks.edit import Edit
from reverie.tasks.source import size_for
from reverie.tasks.start import Task


@dataclass(frozen=True)
class Inpaint(Changing):
    """What is white in the mask is drawn anew; what is black stays as it is, to the last bit."""

    usage: ClassVar[str] = "reverie inpaint IMAGE --mask MASK PROMPT"

    mask: str = ""
    """A picture of the same size: white is drawn anew, black is kept, grey is changed by that share."""
    strength: float = 1.0
    """How far the white part goes back to noise; 1 leaves nothing of what was there."""
    resample: int = 0
    """Each piece of the way is gone so many times more, so that new and old fit: 4 costs five times the time."""

    def answers(self, tasks: Sequence[Mapping[str, Any]]) -> bool:
        return "mask" in tasks[0]

    def task(self) -> Edit:
        """What is done with the picture."""
        return Edit(self.image, self.strength, self.mask, self.resample)

    def early(self) -> None:
        super().early()
        if not self.mask:
            raise UserError(f"say where to draw: {self.usage}")
        self.task().check()

    def tasks(self, system: System) -> tuple[list[Task], dict[str, Any]]:
        task, (more, _) = self.task(), super().tasks(system)
        return [*more, task], size_for(system, task.opened, vars(self))


def main(arguments: Sequence[str]) -> None:
    """Draws and saves."""
    draw(*read(Inpaint, arguments, "reverie inpaint"))
