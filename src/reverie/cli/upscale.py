"""`reverie upscale photo.png "a smiling woman" --factor 2`: a picture enlarged, its details drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from reverie.cli.changing import Changing
from reverie.cli.drawing import draw, read
from reverie.systems import System
from reverie.tasks.start import Task
from reverie.tasks.upscale import enlarged


@dataclass(frozen=True)
class Upscale(Changing):
    """A picture enlarged, and its details drawn as the words say."""

    usage: ClassVar[str] = "reverie upscale IMAGE PROMPT --factor 2"
    sized: ClassVar[str] = "--factor"

    factor: float = 2.0
    """How many times larger each side becomes, to the nearest size the model can draw."""
    strength: float | None = None
    """How much of the enlarged picture is drawn anew, as of `reverie edit`: 0.3 unless told otherwise. A model that learnt to
    enlarge hears none."""

    def tasks(self, system: System) -> tuple[list[Task], dict[str, Any]]:
        task, size = enlarged(system, self.image, self.factor, self.strength)
        return [*super().tasks(system)[0], task], size


def main(arguments: Sequence[str]) -> None:
    """Enlarges and saves."""
    draw(*read(Upscale, arguments, "reverie upscale"))
