"""A picture back to the noise that draws it, and from there again under other words (DDIM, arXiv:2010.02502, section 5.4).

What the other words do not speak of stays nearly as it was.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from PIL import Image

from reverie.card import Card
from reverie.errors import UserError, number
from reverie.process.path import like
from reverie.solve import invert, named
from reverie.tasks.edit import shortened
from reverie.tasks.source import card_of_picture, encoded, fitted, picture
from reverie.tasks.start import TRACED, Start, heard


@dataclass(frozen=True)
class Invert:
    """The task of drawing a picture anew from its own noise. said: what the picture shows, "" = nothing is said of it.

    strength: how far back it goes, as of `Edit`. The way back is DDIM's, exactly undone; forward any solver may go.
    """

    turn: ClassVar[int] = TRACED
    image: Any
    said: Any = ""
    strength: float = 1.0

    def __post_init__(self) -> None:
        number("strength", self.strength)
        if not 0 < self.strength <= 1:
            raise UserError(f"strength is {self.strength}; it is a share of the way to noise, above 0 and at most 1")

    @property
    def opened(self) -> Image.Image:
        return picture(self.image)

    @property
    def card(self) -> Card:
        return {"name": "invert", "image": card_of_picture(self.opened, self.image), "said": self.said, "strength": self.strength}

    @property
    def words(self) -> tuple[Any, ...]:
        """What the picture is said to show."""
        return (self.said,)

    def __call__(self, start: Start) -> Start:
        system, path, count = start.system, start.system.denoiser.path, len(start.said)
        pixels = fitted(self.opened, start.settings.size, system.codec.channels)
        source, start = encoded(system, pixels), shortened(start, self.strength)
        grid = start.grid
        if system.beside:
            raise UserError(f"{system.name} changes pictures, which it must be shown: no picture can be traced back through it")
        cond = heard(system, start.settings, [start.settings.said(self.said)], start.way)["cond"]
        if cond is not None and cond.parts:
            raise UserError("a picture is traced back under one prompt for all of the way: leave out [a:b:0.5], [a|b] and AND")
        solver: Any = named("ddim")[0]
        near = 1e-3 if system.denoiser.autocast is None else 1e-2  # half a level, or what bfloat16 leaves
        place = getattr(system.denoiser, "place", source.device)
        x = invert(system.denoiser, source.to(place), grid, solver, cond=cond, tolerance=near).cpu()
        alpha, sigma = path(grid[0])
        noise = (x - like(alpha, x) * source) / like(sigma, x)
        return replace(start, source=source, noise=noise.expand(count, *noise.shape[1:]))
