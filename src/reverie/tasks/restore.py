"""A picture from what was measured of it: blurred, shrunk, masked, grey, squeezed into a JPEG, or under noise.

The operator says what was done, the method how the model's estimate is corrected by what was seen: `guide/posterior.py`. The way
begins at noise, and what it ends at is one picture of those that fit; other seeds give others.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from reverie.card import Card, parse, rebuild
from reverie.denoiser import Model, OneByOne
from reverie.encode import Damaged
from reverie.errors import UserError
from reverie.guide.jpeg import jpeg
from reverie.guide.kept import Beside
from reverie.guide.operators import Operator, blur, downsample, grey, identity, mask
from reverie.guide.posterior import METHODS, Method, Posterior
from reverie.systems.system import System
from reverie.tasks.generate import generate
from reverie.tasks.mend import Mend
from reverie.tasks.source import card_of_picture, fitted, mask_for, picture, size_for
from reverie.tasks.start import Start

OPERATORS = (identity, mask, downsample, blur, grey, jpeg)
"""What may have been done, for `rebuild(parse("blur(sigma=1.5)"), OPERATORS, "operator")`."""


@dataclass(frozen=True)
class Restore:
    """The task of finding a picture by what was seen of it. image: that, as a path, a PIL picture, or an array.

    operator, method: written as calls, or made. noise: the deviation of the measurement's, in [-1, 1] units (one level of eight
    bits is 0.008), to which the rounding to eight bits comes; at 0 what is found is made to agree with what was seen, to the
    rounding. mask: of the picture's size, for mask() alone; white is unknown.
    """

    image: Any
    operator: str | Operator
    noise: float = 0.0
    method: str | Method = "mmps()"
    mask: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.noise, bool) or not isinstance(self.noise, (int, float)) or not 0 <= self.noise <= 10:
            raise UserError(f"noise is {self.noise}; it is a deviation in [-1, 1] units, from 0 to 10")
        _ = self.kind, self.how

    @cached_property
    def kind(self) -> Operator:
        """The operator, before it knows the picture."""
        if isinstance(self.operator, Operator):
            return self.operator
        if not isinstance(self.operator, str):
            raise UserError(f"operator is a {type(self.operator).__name__}; write it as a call, blur(sigma=1.5)")
        made: Operator = rebuild(parse(self.operator), OPERATORS, "operator")
        return made

    @cached_property
    def how(self) -> Method:
        """The method."""
        if isinstance(self.method, Method):
            return self.method
        if not isinstance(self.method, str):
            raise UserError(f"method is a {type(self.method).__name__}; write it as a call, mmps(steps=3)")
        made: Method = rebuild(parse(self.method), METHODS, "method")
        return made

    @cached_property
    def opened(self) -> Image.Image:
        return picture(self.image)

    @property
    def card(self) -> Card:
        """What is remembered of it in the picture."""
        image = card_of_picture(self.opened, self.image)
        card = {
            "name": "restore",
            "image": image,
            "operator": self.kind.card,
            "noise": float(self.noise),
            "method": _card(self.how),
        }
        return card if self.mask is None else card | {"mask": card_of_picture(picture(self.mask), self.mask)}

    def told(self, channels: int) -> Operator:
        """The operator, knowing the picture. UserError where they do not belong together."""
        image = self.opened
        hidden = None if self.mask is None else mask_for(self.mask, image, image.size[::-1])
        return self.kind.told((channels, image.height, image.width), hidden, _file(self.image))

    def check(self) -> None:
        """UserError unless the pictures can be opened and belong together, as far as that is known without a model."""
        self.told(3)

    def size(self, system: System) -> dict[str, int]:
        """Height and width of what is found. UserError where the model does not draw them: a measurement is not scaled."""
        height, width = self.kind.size(self.opened.height, self.opened.width)
        try:
            system.check_size(height, width)
        except UserError as error:
            wrong = str(error).split(": try ")[0]
            seen = f"what was seen as {self.opened.width}x{self.opened.height} is restored as {width}x{height}, and not scaled"
            raise UserError(f"{seen}: {wrong}: crop the picture to fit") from None
        return {"height": height, "width": width}

    def __call__(self, start: Start) -> Start:
        system, size = start.system, self.size(start.system)
        if start.settings.size != (size["height"], size["width"]):
            wrong = "{1}x{0}".format(*start.settings.size)
            raise UserError(f"the restored picture is {size['width']}x{size['height']}, not {wrong}: leave out height and width")
        codec, operator = system.codec, self.told(system.codec.channels)
        y = operator.read(fitted(self.opened, self.opened.size[::-1], codec.channels))
        variance, count = operator.variance(y, self.noise), len(start.said)
        values = tuple(v.expand(count, *v.shape[1:]) for v in (y, variance))

        def around(model: Model) -> Model:
            made = Posterior(model, lambda z: operator(codec.decode(z)), self.how)
            return OneByOne(made) if start.settings.strict else made

        start = start.put(around, lambda cond: Beside(cond, values))
        return start if self.noise else replace(start, finish=(*start.finish, partial(_laid, operator, y)))


def _laid(operator: Operator, y: Tensor, made: Tensor) -> Tensor:
    return operator.within(made, y.to(made).expand(len(made), *y.shape[1:]))


def _card(method: Method) -> Card:
    card: Card = getattr(method, "card", {})
    return card


def _file(image: Any) -> Any:
    """What was given, where it may be a file that says how it was written."""
    if not isinstance(image, (str, Path)):
        return image
    with Image.open(image) as found:
        return found


def restore(
    system: System,
    image: Any,
    prompt: Any = "",
    *,
    operator: str | Operator = "",
    noise: float | None = None,
    method: str | Method | None = None,
    mask: Any = None,
    **settings: Any,
) -> list[Image.Image]:
    """PIL images that fit what was seen; see `Restore`, and `Settings` for the keywords. Without an operator a model that learnt to
    mend pictures does that (`Mend`), which hears of no noise and no method.
    """
    task, size = restored(system, image, operator, noise, method, mask, settings)
    return generate(system, prompt, tasks=[task], **{**size, **settings})


def restored(
    system: System,
    image: Any,
    operator: str | Operator,
    noise: float | None,
    method: str | Method | None,
    mask: Any,
    settings: Mapping[str, Any],
) -> tuple[Restore | Mend, dict[str, int]]:
    """The task of making a picture whole as this system can, and the size it is drawn at."""
    if not operator and isinstance(shows := system.encoders.get("damaged"), Damaged) and shows.factor == 1:
        for name, given in (("noise", noise), ("method", method)):
            if given is not None:
                said = f"{system.name} mends pictures by itself, and hears no {name}"
                raise UserError(f"{said}: leave it out, or say what was done to the picture with operator")
        mended = Mend(image, mask)
        return mended, size_for(system, mended.opened, settings)
    task = asked(image, operator, noise, method, mask)
    return task, task.size(system)


def asked(image: Any, operator: str | Operator, noise: float | None, method: str | Method | None, mask: Any) -> Restore:
    """The task, where a mask alone says what was done. UserError where nothing does."""
    if not operator and mask is None:
        known = ", ".join(make.__name__ for make in OPERATORS)
        raise UserError(
            f"say what was done to the picture, as operator blur(sigma=1.5). Known: {known}. Without it, name a model that learnt "
            "to mend pictures, as of `reverie train avatars-repair`"
        )
    return Restore(image, operator or "mask()", 0.0 if noise is None else noise, "mmps()" if method is None else method, mask)
