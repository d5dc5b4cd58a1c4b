"""What the commands that change a picture share: the picture, and what it is to show."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import tyro

from reverie.cli.drawing import Drawing
from reverie.errors import UserError
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

    def early(self) -> None:
        super().early()
        if not self.image:
            raise UserError(f"name the picture: {self.usage}")
        _ = picture(self.image)
        if self.sized and (self.height is not None or self.width is not None):
            raise UserError(f"the size follows from {self.sized}: leave out --height and --width")
