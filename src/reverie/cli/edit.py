"""`reverie edit photo.png "a smiling woman" --strength 0.6`: a picture changed as words say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from reverie.cli.changing import Changing, number
from reverie.cli.drawing import draw, read
from reverie.errors import UserError
from reverie.systems import System
from reverie.tasks.edit import Edit as Task
from reverie.tasks.edit import asked
from reverie.tasks.invert import Invert
from reverie.tasks.source import size_for
from reverie.tasks.start import Task as Anything


@dataclass(frozen=True)
class Edit(Changing):
    """A picture changed as words say: noise is put on, as much as is to change, and taken away again."""

    usage: ClassVar[str] = "reverie edit IMAGE PROMPT"

    strength: float | None = None
    """How far it goes back to noise: near 0 nothing changes, 1 leaves nothing of it. 0.6 unless told otherwise."""
    mask: str = ""
    """A picture of the same size: white is changed, black is kept, grey is changed with that share of the strength."""
    invert: str | None = None
    """What the picture shows: it is traced back to its own noise under these words, and drawn from there under the prompt."""

    keep: float | None = None
    """Of a model that follows instructions: how much of the picture is kept, 1 = as much as it sees fit. 1.5 unless told
    otherwise."""

    def taken(self, task: Mapping[str, Any]) -> Mapping[str, Any] | None:
        kind, strength = task.get("name"), {"strength": number(task.get("strength"))}
        if kind == "invert" and not self.mask:
            return {**strength, "invert": str(task.get("said", ""))}
        if kind == "edit" and self.invert is None and bool(self.mask) == ("mask" in task) and not task.get("resample"):
            return strength
        if kind == "instruct" and self.strength is None and self.invert is None and not self.mask:
            return {"keep": number(task.get("keep"))}
        return None

    def task(self) -> Task | Invert:
        """What is done with the picture."""
        if self.invert is None:
            return Task(self.image, 0.6 if self.strength is None else self.strength, self.mask or None)
        if self.mask:
            raise UserError("--invert traces back the whole picture: leave out --mask, or leave out --invert")
        return Invert(self.image, self.invert, 1.0 if self.strength is None else self.strength)

    def early(self) -> None:
        super().early()
        if isinstance(task := self.task(), Task):
            task.check()

    def tasks(self, system: System) -> tuple[list[Anything], dict[str, Any]]:
        task, (more, _) = self.task(), super().tasks(system)
        size = size_for(system, task.opened, vars(self))
        if not isinstance(task, Invert):
            return [*more, asked(system, self.image, self.strength, self.mask or None, self.keep)], size
        if "instruct" in system.encoders:
            said = f"{system.name} follows an instruction, and hears no invert"
            raise UserError(f"{said}: leave it out, or name another model")
        if self.keep is not None:
            raise UserError("--keep is of models that follow instructions: leave it out")
        return [task, *more], size  # its noise is what the others begin from


def main(arguments: Sequence[str]) -> None:
    """Changes and saves."""
    draw(*read(Edit, arguments, "reverie edit"))
