"""A picture changed as an instruction says, by a net that was trained to (Brooks et al., InstructPix2Pix, arXiv:2211.09800).

With c told both, c_I the picture alone and u neither, the estimate is (their eq. 3)

    u + w_I (c_I - u) + w_T (c - c_I),                                                                               (1)

where w_T is the usual guidance scale, and w_I how much the picture is to be kept.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from reverie.card import Card
from reverie.denoiser import Cond
from reverie.encode import Instructed
from reverie.errors import UserError, number
from reverie.guide import Guide
from reverie.guide.guidance import Asked, At, Guided, more
from reverie.tasks.source import card_of_picture, fitted, picture
from reverie.tasks.start import Start, heard


@dataclass(frozen=True)
class Instruct:
    """The task of following an instruction, the prompt. keep: w_I of equation (1)."""

    image: Any
    keep: float = 1.5

    def __post_init__(self) -> None:
        number("keep", self.keep)
        if not abs(self.keep) <= 1e6:
            raise UserError(f"keep is {self.keep}; it is a scale of guidance, between -1e6 and 1e6")

    @property
    def opened(self) -> Image.Image:
        return picture(self.image)

    @property
    def card(self) -> Card:
        return {"name": "instruct", "image": card_of_picture(self.opened, self.image), "keep": self.keep}

    def __call__(self, start: Start) -> Start:
        system = start.system
        shows = system.encoders.get("instruct")
        if not isinstance(shows, Instructed):
            raise UserError(f"{system.name} follows no instructions: describe the whole picture, and give a strength")
        pixels = fitted(self.opened, start.settings.size, system.codec.channels)
        place = getattr(system.denoiser, "place", pixels.device)
        with torch.no_grad():
            seen = shows.picture(system.codec, pixels.to(place)).float().cpu()
        told = seen.expand(len(start.said), -1, -1, -1)
        start = start.hear(lambda cond: replace(cond, concat=told))
        if self.keep == 1:
            return start
        if start.negative is None:  # at guidance 1 nothing else asks for u
            away = heard(system, replace(start.settings, guidance=0.0), start.said, start.way)["negative"]
            if away is None:
                return start
            start = replace(start, negative=replace(away, concat=told))
        return replace(start, guides=(*start.guides, Guide(lambda made, asked: _keeping(made, asked, self.keep))))


def _keeping(made: Guided, asked: Asked, keep: float) -> Guided:
    """Equation (1) is classifier-free guidance away from c_I, and (w_I - 1) (c_I - u)."""
    alone = asked.negative
    assert alone is not None and alone.concat is not None
    neither = replace(alone, concat=torch.zeros_like(alone.concat))

    def term(at: At) -> Tensor:
        both = Cond.cat([alone, neither])
        seen, unseen = asked.plain(torch.cat([at.x, at.x]), at.t.repeat(2), both).chunk(2)
        return (keep - 1) * (seen - unseen)

    return more(made, terms=term)
