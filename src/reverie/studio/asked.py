"""What a job asks for, as JSON: a model, settings, and what is done besides drawing from words.

    {"model": "reverie-avatars", "prompt": "a bald man", "settings": {"steps": 20, "seed": 7},
     "tasks": [{"name": "inpaint", "image": "3f2a...", "mask": "91cc..."}]}

Nothing in it is a path: pictures are named by what `Library.keep` called them, models, LoRAs and controls by their names in the
library. What is unknown is an error that names the nearest.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from reverie.card import rebuild, remembers
from reverie.errors import UserError, nearest
from reverie.studio.library import Library
from reverie.systems.system import System
from reverie.tasks.control import Wish
from reverie.tasks.control import opened as controls
from reverie.tasks.edit import Edit
from reverie.tasks.edit import asked as editing
from reverie.tasks.follow import Follow, stressed
from reverie.tasks.outpaint import Margins, canvas
from reverie.tasks.regions import Region, Regions
from reverie.tasks.restore import restored
from reverie.tasks.settings import Settings, wanted
from reverie.tasks.source import size_for
from reverie.tasks.start import Task
from reverie.tasks.upscale import enlarged
from reverie.tasks.vary import Vary

Done = tuple[list[Task], dict[str, int]]
"""Tasks, and the size that they ask for."""


@dataclass(frozen=True)
class Doing:
    """One thing that is done: `ready(library)` names its files, `made(system, settings, library)` gives the tasks."""

    made: Callable[[System, Mapping[str, Any], Library], Done]
    pictures: tuple[str, ...] = ()
    net: str | None = None

    def ready(self, library: Library) -> None:
        """UserError where a picture or a control is not there."""
        for name in self.pictures:
            library.picture(name)
        if self.net is not None:
            library.control(self.net)


@remembers
def edit(image: str, strength: float | None = None, mask: str = "", keep: float | None = None) -> Doing:
    """A picture changed as the prompt says; see `tasks/edit.py`."""

    def made(system: System, settings: Mapping[str, Any], library: Library) -> Done:
        task = editing(system, library.picture(image), strength, library.picture(mask) if mask else None, keep)
        return [task], size_for(system, task.opened, settings)

    return Doing(made, (image, mask) if mask else (image,))


@remembers
def inpaint(image: str, mask: str, strength: float = 1.0, resample: int = 0) -> Doing:
    """What is white in the mask drawn anew."""

    def made(system: System, settings: Mapping[str, Any], library: Library) -> Done:
        task = Edit(library.picture(image), strength, library.picture(mask), resample)
        return [task], size_for(system, task.opened, settings)

    return Doing(made, (image, mask))


@remembers
def outpaint(image: str, left: int = 0, right: int = 0, top: int = 0, bottom: int = 0, resample: int = 0) -> Doing:
    """A picture on a larger canvas; edges in pixels."""
    margins = Margins(left, right, top, bottom)

    def made(system: System, settings: Mapping[str, Any], library: Library) -> Done:
        large, mask, size = canvas(system, library.picture(image), margins)
        return [Edit(large, 1.0, mask, resample)], dict(size)

    return Doing(made, (image,))


@remembers
def upscale(image: str, factor: float = 2.0, strength: float | None = None) -> Doing:
    """A picture enlarged, its details drawn."""

    def made(system: System, settings: Mapping[str, Any], library: Library) -> Done:
        task, size = enlarged(system, library.picture(image), factor, strength)
        return [task], size

    return Doing(made, (image,))


@remembers
def restore(image: str, operator: str = "", noise: float | None = None, method: str = "", mask: str = "") -> Doing:
    """A picture from what was measured of it."""

    def made(system: System, settings: Mapping[str, Any], library: Library) -> Done:
        hole = library.picture(mask) if mask else None
        task, size = restored(system, library.picture(image), operator, noise, method or None, hole, settings)
        return [task], size

    return Doing(made, (image, mask) if mask else (image,))


@remembers
def control(
    net: str, image: str, weight: float = 1.0, start: float = 0.0, stop: float = 1.0, take: str = "", guided: bool = False
) -> Doing:
    """A control of the library, or one that ships, and its picture."""

    def made(system: System, settings: Mapping[str, Any], library: Library) -> Done:
        when = {"weight": weight, "start": start, "stop": stop, "guided": guided}
        return [*controls([Wish(library.control(net), library.picture(image), when, take)], system)], {}

    return Doing(made, (image,), net)


@remembers
def vary(seed: int, share: float = 0.2) -> Doing:
    """Noise mixed with that of another seed."""
    task = Vary(seed, share)
    return Doing(lambda system, settings, library: ([task], {}))


@remembers
def follow(said: str = "", stress: str = "") -> Doing:
    """Beside the picture of other words; or words weighed, as "glasses=3"."""
    task = Follow(said or None, stress=stressed(stress.split()))
    return Doing(lambda system, settings, library: ([task], {}))


@remembers
def region(mask: str, prompt: str) -> Doing:
    """Another prompt where the mask is white."""
    return Doing(lambda system, settings, library: ([Regions((Region(library.picture(mask), prompt),))], {}), (mask,))


TASKS = (edit, inpaint, outpaint, upscale, restore, control, vary, follow, region)
MOST = 16
"""Tasks of one job."""


@dataclass(frozen=True)
class Asked:
    """A request that has been read: see this module."""

    settings: Settings
    model: str = "reverie-avatars"
    loras: tuple[str, ...] = ()
    doing: tuple[Doing, ...] = ()

    def tasks(self, system: System, library: Library) -> tuple[list[Task], Settings]:
        """Of a system: what is done, and the settings with everything that it fills in."""
        tasks: list[Task] = []
        given = {name: getattr(self.settings, name) for name in ("height", "width")}
        for doing in self.doing:
            more, size = doing.made(system, given, library)
            tasks += more
            given |= size
        parts = tuple(part for task in tasks if isinstance(task, Regions) for part in task.regions)
        whole: list[Task] = [Regions(parts)] if parts else []
        return [*whole, *(task for task in tasks if not isinstance(task, Regions))], wanted(
            self.settings.prompt, {**_plain(self.settings), **given}
        ).filled(system)


def read(asked: Mapping[str, Any], library: Library) -> Asked:
    """UserError for whatever can be known to be wrong before the model is opened."""
    known = ("model", "prompt", "settings", "loras", "tasks")
    for name in asked:
        if name not in known:
            raise UserError(f"a job has no field '{name}'.{nearest(name, known)}")
    settings, cards, loras = asked.get("settings", {}), asked.get("tasks", []), asked.get("loras", [])
    if not isinstance(settings, Mapping) or not isinstance(cards, list) or not isinstance(loras, list):
        raise UserError("settings is a JSON object, tasks and loras are lists")
    if len(cards) > MOST or len(loras) > MOST:
        raise UserError(f"a job has at most {MOST} tasks, and as many LoRAs")
    model = library.model(asked.get("model", "reverie-avatars"))
    doing = tuple(rebuild(card, TASKS, "task") for card in cards)
    for each in doing:
        each.ready(library)
    return Asked(wanted(asked.get("prompt", ""), settings), model, tuple(library.lora(one) for one in loras), doing)


def _plain(settings: Settings) -> dict[str, Any]:
    return {f.name: getattr(settings, f.name) for f in fields(settings) if f.name != "prompt"}
