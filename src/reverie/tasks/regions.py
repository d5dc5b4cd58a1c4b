"""A prompt for each part of the picture, by masks: `guide/regional.py` says how."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from PIL import Image
from torch import Tensor

from reverie.card import Card, parse, rebuild, remembers
from reverie.errors import UserError
from reverie.guide.regional import Regional, attending, composing
from reverie.tasks.source import card_of_picture, fitted, picture
from reverie.tasks.start import PARTED, Start, heard


@dataclass(frozen=True)
class Region:
    """Where a prompt holds: white in a picture of any size, which is fitted to the one that is drawn; grey holds it in part."""

    mask: Any
    prompt: str

    def share(self, size: tuple[int, int]) -> Tensor:
        """(1, H, W) in [0, 1]; UserError where it is black everywhere."""
        made = (fitted(picture(self.mask), size, 1, Image.Resampling.NEAREST)[0] + 1) / 2
        if not bool(made.any()):
            raise UserError(f"the mask of '{self.prompt[:40]}' is black everywhere: paint white where it holds")
        return made


@remembers
def region(mask: str, prompt: str) -> Region:
    """A prompt, and the file of its mask."""
    return Region(mask, prompt)


def parted(text: str) -> Region:
    """What is asked for by a call as it is written, `region(mask='left.png', prompt='a red hat')`."""
    made: Region = rebuild(parse(text), (region,), "region")
    picture(made.mask)
    return made


@dataclass(frozen=True)
class Regions:
    """The task of saying something else of parts of the picture.

    by: "estimates" composes the clean estimates, with every net; "attention" lets each place look at the words of its own regions
    alone, with nets that look at words. ratio: how much the prompt of the whole is heard within the regions, 0 = not at all.
    """

    turn: ClassVar[int] = PARTED
    regions: tuple[Region, ...]
    by: Literal["estimates", "attention"] = "estimates"
    ratio: float = 0.2

    def __post_init__(self) -> None:
        if self.by not in ("estimates", "attention"):
            raise UserError(f"regions by '{self.by}': it is estimates or attention")
        if not self.regions:
            raise UserError("no regions: give at least one mask with its prompt")
        Regional(None, self.ratio)  # type: ignore[arg-type]  # which checks the ratio

    @property
    def card(self) -> Card:
        every = [{"prompt": r.prompt, "mask": card_of_picture(picture(r.mask), r.mask)} for r in self.regions]
        return {"name": "regions", "regions": every, "by": self.by, "ratio": self.ratio}

    @property
    def words(self) -> tuple[Any, ...]:
        """What is said of the regions."""
        return tuple(r.prompt for r in self.regions)

    def __call__(self, start: Start) -> Start:
        if start.cond is None:
            raise UserError(f"{start.system.name} hears no words, so that no region can have its own")
        masks = torch.cat([r.share(start.settings.size) for r in self.regions])
        prompts = [[start.settings.said(r.prompt)] * len(start.said) for r in self.regions]
        said = [heard(start.system, start.settings, each, start.way)["cond"] for each in prompts]
        if self.by == "estimates":
            return replace(start, cond=composing(start.cond, said, masks, self.ratio))
        return replace(start, cond=attending(start.cond, said, masks)).look(lambda model, _: Regional(model, self.ratio))
