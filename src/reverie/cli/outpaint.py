"""`reverie outpaint photo.png "a street" --left 32 --right 32`: a picture on a larger canvas."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from reverie.cli.changing import Changing
from reverie.cli.drawing import draw, read
from reverie.systems import System
from reverie.tasks.edit import Edit
from reverie.tasks.outpaint import Margins, canvas
from reverie.tasks.start import Task


@dataclass(frozen=True)
class Outpaint(Changing):
    """The picture stays as it is, to the last bit; what lies beyond its edges is drawn."""

    usage: ClassVar[str] = "reverie outpaint IMAGE PROMPT --left PIXELS"
    sized: ClassVar[str] = "the picture and its new edges"

    left: int = 0
    """Pixels to add at this edge."""
    right: int = 0
    """Likewise."""
    top: int = 0
    """Likewise."""
    bottom: int = 0
    """Likewise."""
    resample: int = 0
    """Each piece of the way is gone so many times more, so that new and old fit."""

    @property
    def margins(self) -> Margins:
        return Margins(self.left, self.right, self.top, self.bottom)

    def early(self) -> None:
        super().early()
        _ = self.margins

    def tasks(self, system: System) -> tuple[list[Task], dict[str, Any]]:
        image, mask, size = canvas(system, self.image, self.margins)
        return [*super().tasks(system)[0], Edit(image, 1.0, mask, self.resample)], dict(size)


def main(arguments: Sequence[str]) -> None:
    """Draws and saves."""
    draw(*read(Outpaint, arguments, "reverie outpaint"))
