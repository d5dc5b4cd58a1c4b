"""A damaged picture made whole by a net that learnt to (Palette, arXiv:2111.05826): colours, holes, edges, JPEG's blocks."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image

from reverie.card import Card
from reverie.encode import Damaged
from reverie.errors import UserError
from reverie.tasks.source import card_of_picture, fitted, mask_for, picture
from reverie.tasks.start import Start


@dataclass(frozen=True)
class Mend:
    """The task of making a picture whole. mask: white where it has a hole; what is black stays as it is, to the last bit."""

    image: Any
    mask: Any = None

    @property
    def opened(self) -> Image.Image:
        return picture(self.image)

    @property
    def card(self) -> Card:
        card: Card = {"name": "mend", "image": card_of_picture(self.opened, self.image)}
        return card if self.mask is None else card | {"mask": card_of_picture(picture(self.mask), self.mask)}

    def __call__(self, start: Start) -> Start:
        system, size, image = start.system, start.settings.size, self.opened
        shows = system.encoders.get("damaged")
        if not isinstance(shows, Damaged) or shows.factor > 1:
            said = "name a model that did, as of `reverie train avatars-repair`"
            raise UserError(f"{system.name} did not learn to mend pictures: {said}")
        pixels = fitted(image, size, system.codec.channels)
        mask = None if self.mask is None else (mask_for(self.mask, image, size) > 0).float()
        told = shows.picture(system.codec, pixels, mask).expand(len(start.said), -1, -1, -1)
        start = start.hear(lambda cond: replace(cond, concat=told))
        if mask is None:
            return start
        return replace(start, finish=(*start.finish, lambda made: torch.where(mask.to(made) > 0, made, pixels.to(made))))
