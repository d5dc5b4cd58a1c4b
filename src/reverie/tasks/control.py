"""Pictures that steer: controls by edges, sketches, colours, and pictures as prompts, in any task.

A control's picture is fitted as any other (scaled to cover the size that is drawn, its middle taken), whatever the sizes of several
are; `take` draws the hint from a photograph first, "edges()". What is said of several controls of one kind is added up.
To a control that hears several kinds (`Control.kinds`) `take` says which, one or a list of them; or it has a picture for each,
{"edges()": picture}.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reverie.adapt import Control, Controlled, ImagePrompt, ImagePrompted
from reverie.card import Card, card_of, parse, rebuild, remembers
from reverie.data.hints import HINTS
from reverie.data.kinds import together
from reverie.denoiser import Cond
from reverie.errors import UserError
from reverie.systems.control import open_control, open_image_prompt
from reverie.systems.opening import USUAL, Opening
from reverie.systems.system import System
from reverie.tasks.settings import Settings
from reverie.tasks.source import card_of_picture, fitted, picture
from reverie.tasks.start import SHOWN, STEERED, Start


@dataclass(frozen=True)
class Wish:
    """A file, a picture for it, and how it acts; `opened` makes it a control. eye: a folder, of image prompts alone."""

    net: str
    image: Any
    when: dict[str, Any]
    take: Any = ""
    eye: str | None = None

    def check(self) -> None:
        """UserError for what can be refused before anything is loaded."""
        _pictures(self.image)
        for kind in _each(self.take):
            rebuild(parse(kind), HINTS, "hint")

    def opened(self, system: System, opening: Opening = USUAL) -> "Steer | Show":
        """The task of this wish."""
        if self.eye is not None:
            return Show((open_image_prompt(self.net, system, self.eye, opening, **self.when),), (self.image,))
        return Steer((open_control(self.net, system, opening, **self.when),), (self.image,), (self.take,))


@remembers
def control(
    net: str,
    image: str | Mapping[str, str],
    weight: float = 1.0,
    start: float = 0.0,
    stop: float = 1.0,
    take: str | Sequence[str] = "",
    guided: bool = False,
) -> Wish:
    """A control in a file or folder, and its picture; take: a hint that is drawn from it first, or several; guided: only the asked
    half of guidance hears it."""
    return Wish(net, image, {"weight": weight, "start": start, "stop": stop, "guided": guided}, take)


@remembers
def image_prompt(net: str, image: str, weight: float = 1.0, start: float = 0.0, stop: float = 1.0, eye: str = "") -> Wish:
    """An image prompt, of ours or an IP-Adapter, and the picture that it sees; eye: the folder of CLIP, where it sees by that."""
    return Wish(net, image, {"weight": weight, "start": start, "stop": stop}, eye=eye)


WISHES = (control, image_prompt)
"""What `--control` takes."""


def wished(text: str) -> Wish:
    """What is asked for by a call as it is written, `control(net='edges.safetensors', image='a.png')`."""
    made: Wish = rebuild(parse(text), WISHES, "control")
    made.check()
    return made


@dataclass(frozen=True)
class Steer:
    """The task of heeding controls: each has a picture, and perhaps a hint that is drawn from it, by name or made."""

    turn: ClassVar[int] = STEERED
    controls: tuple[Control, ...]
    images: tuple[Any, ...]
    takes: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if len(self.images) != len(self.controls):
            raise UserError(f"{len(self.controls)} controls have {len(self.images)} pictures: give one for each")
        if not isinstance(self.takes, (list, tuple)) or len(self._takes) != len(self.controls):
            raise UserError(f"takes are {str(self.takes)[:60]}: give one for each of {len(self.controls)} controls, '' for none")
        for take in self.takes:
            _each(take)
        for image in self.images:
            if isinstance(image, Mapping) and not all(isinstance(kind, str) for kind in image):
                raise UserError(f"pictures are given for {', '.join(map(str, image))[:60]}: name the hints they are, as edges()")

    @property
    def card(self) -> Card:
        pictures = [_card(image) for image in self.images]
        told = [{"net": c.name, "weight": c.weight, "start": c.start, "stop": c.stop, "guided": c.guided} for c in self.controls]
        takes = [take if isinstance(take, str) else card_of(take) for take in self._takes]  # a list of several, too
        every = zip(told, pictures, takes, strict=True)
        return {"name": "steer", "controls": [net | {"image": image, "take": take} for net, image, take in every]}

    @property
    def _takes(self) -> tuple[Any, ...]:
        return self.takes or ("",) * len(self.controls)

    def hints(self, size: tuple[int, int]) -> list[Tensor]:
        """What each control is shown, (1, C, H, W) in [-1, 1]."""
        out = []
        for control, image, take in zip(self.controls, self.images, self._takes, strict=True):
            if control.kinds:
                out.append(_several(control, image, take, size))
                continue
            if isinstance(image, Mapping) or len(_each(take)) > 1:
                raise UserError(f"{control.name} hears one kind of picture: give it one, and one hint to take of it")
            shown = _drawn(picture(image), _each(take)[0], size) if take else picture(image)
            out.append(fitted(shown, size, control.net.config.hint_channels))
        return out

    def notes(self, settings: Settings) -> list[str]:
        """What a picture does not say, and what nothing speaks for."""
        pairs = zip(self.controls, self.images, strict=True)
        black = [c.name for c, image in pairs if (every := _pictures(image)) and not any(np.asarray(one).any() for one in every)]
        said = [f"the picture of {name} is black everywhere: it says that there is nothing" for name in black]
        alone = [c.name for c in self.controls if c.guided and settings.guidance == 1]
        for control, take in zip(self.controls, self._takes, strict=True):
            drawn = [kind_of(one) for one in _each(take)]
            said += [
                f"{control.name} learnt {control.hint}, and is shown {k}()"
                for k in drawn
                if control.hint and k != kind_of(control.hint)
            ]
        return said + [f"guidance is 1, so that {name}, which is guided, is as it is without" for name in alone]

    def __call__(self, start: Start) -> Start:
        count = len(start.said)
        hints = [hint.expand(count, -1, -1, -1) for hint in self.hints(start.settings.size)]

        def told(cond: Cond, asked: bool) -> Cond:
            before = cond.hints or ()
            heeded = torch.ones(count, len(before), dtype=torch.bool) if cond.heeded is None else cond.heeded
            own = torch.tensor([asked or not control.guided for control in self.controls]).expand(count, -1)
            return replace(cond, hints=(*before, *hints), heeded=torch.cat([heeded, own], 1))

        negative = None if start.negative is None else told(start.negative, False)
        start = replace(start, cond=told(start.cond or Cond(), True), negative=negative)
        return start.adapt(partial(_controlled, controls=self.controls))


def kind_of(hint: Any) -> str:
    """The name of a hint, written or made."""
    return str((parse(hint) if isinstance(hint, str) else card_of(hint))["name"])


def _each(take: Any) -> tuple[Any, ...]:
    """Hints to take, of one or several."""
    found = tuple(take) if isinstance(take, (list, tuple)) else (take,) if take else ()
    for one in found:
        if not isinstance(one, str) and not callable(one):
            raise UserError(f"take is {str(one)[:60]}, which is no hint: write one as edges()")
    return found


def _pictures(image: Any) -> list[Image.Image]:
    return [picture(each) for each in image.values()] if isinstance(image, Mapping) else [picture(image)]


def _card(image: Any) -> Any:
    if isinstance(image, Mapping):
        return {kind: _card(each) for kind, each in image.items()}
    return card_of_picture(picture(image), image)


def _drawn(image: Image.Image, take: Any, size: tuple[int, int]) -> Image.Image:
    """The hint of a photograph that is fitted first."""
    whole = (fitted(image, size, 3)[0].permute(1, 2, 0) + 1) * 127.5
    draw = rebuild(parse(take), HINTS, "hint") if isinstance(take, str) else take
    return Image.fromarray(draw(whole.round().numpy().astype(np.uint8)))


def _several(control: Control, image: Any, take: Any, size: tuple[int, int]) -> Tensor:
    """What a control is shown that hears several kinds, (1, 3 K, H, W)."""
    if isinstance(image, Mapping):
        if take:
            raise UserError(f"{control.name} has a picture for each kind, which is the hint: leave out take")
        given = {kind: fitted(picture(each), size, 3) for kind, each in image.items()}
    elif not take:
        raise UserError(
            f"{control.name} hears {', '.join(control.kinds)}: say by take which is to be drawn, or give a picture for each"
        )
    else:
        names = [take if isinstance(take, str) else take.card["name"] for take in _each(take)]
        given = {name: fitted(_drawn(picture(image), one, size), size, 3) for name, one in zip(names, _each(take), strict=True)}
    return together(given, control.kinds, control.name)


def _controlled(model: Any, controls: tuple[Control, ...]) -> Controlled:
    """Those of an earlier task hear the first pictures."""
    if isinstance(model, Controlled):
        return Controlled(model.model, [*model.controls, *controls])
    return Controlled(model, controls)


@dataclass(frozen=True)
class Show:
    """The task of heeding pictures as prompts; each adapter has one."""

    turn: ClassVar[int] = SHOWN
    prompts: tuple[ImagePrompt, ...]
    images: tuple[Any, ...]

    def __post_init__(self) -> None:
        if len(self.images) != len(self.prompts):
            raise UserError(f"{len(self.prompts)} image prompts have {len(self.images)} pictures: give one for each")

    @property
    def card(self) -> Card:
        pictures = [card_of_picture(picture(image), image) for image in self.images]
        every = zip(self.prompts, pictures, strict=True)
        return {"name": "show", "prompts": [{"net": p.name, "weight": p.weight, "image": image} for p, image in every]}

    def __call__(self, start: Start) -> Start:
        seen = [_whole(picture(image)) for image in self.images]
        every = list(zip(self.prompts, seen, strict=True))
        said, unsaid = (torch.cat([see(p)(x) for p, x in every], 1) for see in (lambda p: p.tokens, lambda p: p.empty))
        count = len(start.said)

        def told(cond: Cond, new: Tensor) -> Cond:
            new = new.expand(count, -1, -1)
            return replace(cond, images=new if cond.images is None else torch.cat([cond.images, new], 1))

        negative = None if start.negative is None else told(start.negative, unsaid)
        return replace(start, cond=told(start.cond or Cond(), said), negative=negative).adapt(
            partial(_prompted, prompts=self.prompts)
        )


def _prompted(model: Any, prompts: tuple[ImagePrompt, ...]) -> ImagePrompted:
    """Those of an earlier task see the first pictures."""
    if isinstance(model, ImagePrompted):
        return ImagePrompted(model.model, [*model.prompts, *prompts])
    return ImagePrompted(model, prompts)


def _whole(image: Image.Image) -> Tensor:
    return fitted(image, (image.height, image.width), 3)


def opened(wishes: Sequence[Wish], system: System, opening: Opening = USUAL) -> list[Steer | Show]:
    """The tasks of several wishes, the controls in one."""
    tasks = [wish.opened(system, opening) for wish in wishes]
    steers = [task for task in tasks if isinstance(task, Steer)]
    shows = [task for task in tasks if isinstance(task, Show)]
    made: list[Steer | Show] = []
    if steers:
        controls, images, takes = (tuple(itertools.chain.from_iterable(part)) for part in zip(*map(_parts, steers), strict=True))
        made.append(Steer(controls, images, takes))
    if shows:
        prompts = tuple(p for s in shows for p in s.prompts)
        made.append(Show(prompts, tuple(image for s in shows for image in s.images)))
    return made


def _parts(steer: Steer) -> tuple[Any, Any, Any]:
    return steer.controls, steer.images, steer._takes
