"""What the commands that change a picture share: the picture, and what it is to show."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar, Self

import tyro

from reverie.cli.drawing import Drawing
from reverie.errors import UserError
from reverie.tasks import metadata
from reverie.tasks.source import picture


@dataclass(frozen=True)
class Changing(Drawing):
    """A picture, and words."""

    usage: ClassVar[str] = ""
    """How the command is called."""
    sized: ClassVar[str] = ""
    """What its size follows from, where none can be asked for."""

    image: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")] = ""
    """The picture."""
    prompt: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PROMPT")] = ()
    """What the whole is to show; several prompts give `count` pictures each."""

    @property
    def prompts(self) -> tuple[str, ...]:
        return self.prompt

    def taken(self, task: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """What a task of a picture tells of this command's own options; None of a task that this command does not do."""
        return None

    def answers(self, task: Mapping[str, Any]) -> bool:
        return self.taken(task) is not None

    def retold(self, made: metadata.Made) -> Self:
        told = super().retold(made)
        every = {k: v for task in made.tasks for k, v in (self.taken(task) or {}).items() if v is not None}
        free = {f.name for f in fields(self) if getattr(self, f.name) == f.default}  # not given: what is given wins
        more = {k: v for k, v in every.items() if k in free}
        if self.sized:  # the size follows from the picture, as that of the other one did
            more |= {side: None for side in ("height", "width") if getattr(self, side) == getattr(made.settings, side)}
        return replace(told, **more)

    def early(self) -> None:
        super().early()
        if not self.image:
            raise UserError(f"name the picture: {self.usage}")
        _ = picture(self.image)
        if self.sized and (self.height is not None or self.width is not None):
            raise UserError(f"the size follows from {self.sized}: leave out --height and --width")


def number(value: Any) -> Any:
    """A number of a task as it is told; None of anything else, since pictures of others are not to be believed."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
