"""`reverie restore photo.png "a smiling woman" --operator "blur(sigma=1.5)"`: a picture from what was measured of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from reverie.cli.changing import Changing, number
from reverie.cli.drawing import draw, read
from reverie.systems import System
from reverie.tasks.restore import asked, restored
from reverie.tasks.start import Task as Anything


@dataclass(frozen=True)
class Restore(Changing):
    """A picture that was blurred, shrunk, masked, turned grey or squeezed, as it may have been: it fits what is left of it."""

    usage: ClassVar[str] = 'reverie restore IMAGE PROMPT --operator "blur(sigma=1.5)"'
    sized: ClassVar[str] = "the picture and --operator"

    operator: str = ""
    """What was done to it: blur(sigma=1.5), downsample(factor=4), mask(), grey(), jpeg(quality=10) or identity(). A model that
    learnt to mend pictures needs none."""
    noise: float | None = None
    """The deviation of the noise on it, in [-1, 1] units: 0.02 is two and a half levels of 255. None unless told otherwise."""
    method: str = ""
    """How what was seen steers the model: mmps(), pigdm() or dps(); mmps() unless told otherwise. docs/restoring.md says what each
    costs."""
    mask: str = ""
    """A picture of the same size, for mask(): white is unknown, black is known."""

    def taken(self, task: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if task.get("name") == "mend":
            return {}
        if task.get("name") != "restore":
            return None
        return {"operator": _call(task.get("operator")), "method": _call(task.get("method")), "noise": number(task.get("noise"))}

    def early(self) -> None:
        super().early()
        if self.operator or self.mask:  # else the model must know by itself
            asked(self.image, self.operator, self.noise, self.method or None, self.mask or None).check()

    def tasks(self, system: System) -> tuple[list[Anything], dict[str, Any]]:
        how = (self.operator, self.noise, self.method or None, self.mask or None)
        task, size = restored(system, self.image, *how, vars(self))
        return [*super().tasks(system)[0], task], size


def _call(card: Any) -> str | None:
    """A card as it is typed; None of anything else, since pictures of others are not to be believed."""
    if not isinstance(card, Mapping) or "name" not in card:
        return None
    return f"{card['name']}({', '.join(f'{k}={v!r}' for k, v in card.items() if k != 'name')})"


def main(arguments: Sequence[str]) -> None:
    """Restores and saves."""
    draw(*read(Restore, arguments, "reverie restore"))
