"""Pictures near a picture: its noise, mixed with another seed's (slerp, so that every mixture is noise again)."""

from dataclasses import dataclass, replace
from typing import ClassVar

from reverie.card import Card
from reverie.errors import UserError, number
from reverie.rng import Rng
from reverie.solve import slerp
from reverie.tasks.start import VARIED, Start


@dataclass(frozen=True)
class Vary:
    """The task of varying what a seed draws: share 0 is the seed's own picture, 1 that of `seed`; both count on from picture to
    picture, unless one seed is kept for all (`hold`), which gives many variations of one picture."""

    turn: ClassVar[int] = VARIED
    seed: int
    share: float = 0.2
    hold: bool = True

    def __post_init__(self) -> None:
        number("the share of the other seed", self.share)
        number("the seed of the variation", self.seed, whole=True)
        if not 0 <= self.share <= 1:
            raise UserError(f"the share of the other seed is {self.share}; it lies between 0 and 1")
        if self.seed < 0:
            raise UserError(f"the seed of the variation is {self.seed}; seeds are 0 or larger")

    @property
    def card(self) -> Card:
        return {"name": "vary", "seed": self.seed, "share": self.share, "hold": self.hold}

    def of(self, index: int) -> Card:
        """What is remembered in picture `index`, which has its own other seed."""
        return self.card | {"seed": self.seed + index}

    def __call__(self, start: Start) -> Start:
        path, count, shape = start.system.denoiser.path, len(start.said), start.noise.shape
        other = path.noise(shape, Rng.of(self.seed + start.first, count).fold("prior"))
        own, rng = start.noise, start.rng
        if self.hold:  # what is drawn on the way is of that one seed, too
            rng = replace(rng, seeds=(start.settings.seed,) * count)
            own = own if start.source is not None else path.noise(shape, rng.fold("prior"))  # a traced picture has one noise
        return replace(start, noise=slerp(own, other, self.share), rng=rng)
