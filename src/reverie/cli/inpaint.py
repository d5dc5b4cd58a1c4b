"""`reverie inpaint photo.png --mask hole.png "a red hat"`: a part of a picture drawn anew."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from reverie.cli.changing import Changing, number
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
    strength: float | None = None
    """How far the white part goes back to noise; 1, which it is unless told otherwise, leaves nothing of what was there."""
    resample: int | None = None
    """Each piece of the way is gone so many times more, so that new and old fit: 4 costs five times the time. None unless told
    otherwise."""

    def taken(self, task: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if task.get("name") != "edit" or "mask" not in task:
            return None
        times = task.get("resample")
        return {"strength": number(task.get("strength")), "resample": number(times) if isinstance(times, int) else None}

    def task(self) -> Edit:
        """What is done with the picture."""
        return Edit(self.image, 1.0 if self.strength is None else self.strength, self.mask, self.resample or 0)

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
