"""Pictures from pictures: noise is put on, as much as is to change, and taken away again under the prompt.

- one strength for all of it: Meng et al., SDEdit, arXiv:2108.01073;
- a strength for each pixel: Levin & Fried, Differential Diffusion, arXiv:2306.00950; black and white are inpainting.

Strength s is the share of the way to noise that a picture goes back: of a grid of steps / s steps the last `steps` are taken, so
that a number of steps costs as much whatever the strength. A grid that lists its times is cut to its last steps instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from reverie.card import Card, parse
from reverie.errors import UserError, number
from reverie.guide.kept import Beside, Kept
from reverie.process.path import like
from reverie.solve import Resampled
from reverie.systems.system import System
from reverie.tasks.generate import generate
from reverie.tasks.instruct import Instruct
from reverie.tasks.settings import TUNED
from reverie.tasks.source import card_of_picture, encoded, fitted, mask_for, picture, size_for
from reverie.tasks.start import Start, gridded

LONGEST = 100_000
"""Steps of a grid that is cut."""


@dataclass(frozen=True)
class Edit:
    """The task of changing a picture. image: a path, a PIL picture, or an array. strength: 0 < strength <= 1.

    mask: of the picture's size; white is changed, black is kept to the last bit, grey is changed with that share of the strength.
    resample: each piece of the way is gone so many times more, so that what is drawn fits what is kept (RePaint, arXiv:2201.09865).
    """

    image: Any
    strength: float = 0.6
    mask: Any = None
    resample: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.strength, bool) or not isinstance(self.strength, (int, float)) or not 0 < self.strength <= 1:
            raise UserError(f"strength is {self.strength}; it is a share of the way to noise, above 0 and at most 1")
        number("resample", self.resample, whole=True)
        if not 0 <= self.resample <= 100:
            raise UserError(f"resample is {self.resample}; it lies between 0 and 100")
        if self.resample and self.mask is None:
            raise UserError("resample makes what is drawn fit what is kept: it needs a mask")

    @property
    def card(self) -> Card:
        """What is remembered of it in the picture."""
        card: Card = {"name": "edit", "image": card_of_picture(self.opened, self.image), "strength": float(self.strength)}
        if self.mask is None:
            return card
        return card | {"mask": card_of_picture(picture(self.mask), self.mask), "resample": self.resample}

    @property
    def opened(self) -> Image.Image:
        return picture(self.image)

    def check(self) -> None:
        """UserError unless the pictures can be opened and belong together."""
        image = self.opened
        if self.mask is not None:
            mask_for(self.mask, image, image.size[::-1])

    def __call__(self, start: Start) -> Start:
        image, system, size = self.opened, start.system, start.settings.size
        pixels = fitted(image, size, system.codec.channels)
        whole = torch.ones(1, 1, *size) if "inpaint" in system.encoders else None  # such a net is told what to fill: all of it
        mask = whole if self.mask is None else mask_for(self.mask, image, size)
        most = 1.0 if mask is None else float(mask.max())
        start = replace(shortened(start, self.strength * most), source=encoded(system, pixels))
        if mask is None:
            return from_prior(start, torch.full((1, 1, 1, 1), self.strength))
        return resampled(changed(start, pixels, mask, self.strength), self.resample)


def shortened(start: Start, strength: float) -> Start:
    """With the last `strength` of the way; changes within a prompt are spread over it where it has as many steps as the whole."""
    grid = cut(start, strength)
    way = grid if len(grid) == len(start.way) else start.way
    second = None if start.refiner is None else replace(start.refiner, grid=grid, way=way)
    return replace(start, grid=grid, way=way, refiner=second)


def cut(start: Start, strength: float) -> Tensor:
    """The times of the last `strength` of the way."""
    settings, steps = start.settings, len(start.grid) - 1
    if strength == 1:
        return start.grid
    if settings.solver == TUNED or parse(settings.grid or "")["name"] == TUNED:
        raise UserError("a tuned solver goes the whole way from noise: name another solver, or strength 1")
    if "*" in parse(settings.grid or ""):
        return start.grid[-1 - max(1, round(steps * strength)) :]
    return gridded(start.system, settings, min(int(steps / strength + 1e-9), LONGEST))[-1 - steps :]


def changed(start: Start, pixels: Tensor, mask: Tensor, strength: float) -> Start:
    """With what is black in the mask (1, 1, H, W) kept to the last bit of pixels (1, C, H, W), and grey freed on the way."""
    shape = start.noise.shape[2:]
    start = replace(start, finish=(*start.finish, lambda made: torch.where(mask.to(made) > 0, made, pixels.to(made))))
    if (encoder := start.system.encoders.get("inpaint")) is not None:
        concat: Any = encoder
        place = getattr(start.system.denoiser, "place", pixels.device)
        with torch.no_grad():
            told = concat.picture(start.system.codec, pixels.to(place), (mask > 0).float().to(place)).float().cpu()
        start = from_prior(start, torch.full((1, 1, 1, 1), strength))
        return start.hear(lambda cond: replace(cond, concat=told.expand(len(start.said), *told.shape[1:])))
    free = F.adaptive_max_pool2d(mask, shape)
    start = from_prior(start, strength * free)
    free = free / free.max()  # of the way that is left
    count, source = len(start.said), start.source
    assert source is not None
    values = (source.expand(count, *source.shape[1:]), free.expand(count, *free.shape[1:]))
    return start.put(lambda model: Kept(model, start.grid), lambda cond: Beside(cond, values))


def from_prior(start: Start, free: Tensor) -> Start:
    """Places of strength 1 begin as those of a new picture do: nothing is left of the source there."""
    path, t, source = start.system.denoiser.path, start.grid[0], start.source
    assert source is not None
    alpha, sigma = path(t)
    new = (path.spread(start.noise, t, 1.0) - like(alpha, source) * source) / like(sigma, source)
    return replace(start, noise=torch.where(free >= 1, new, start.noise))


def resampled(start: Start, times: int) -> Start:
    """With every piece of the way gone `times` times more: RePaint's jumps of a tenth of the steps."""
    if not times:
        return start
    length = max(1, round((len(start.grid) - 1) / 10))
    keep = [*range(0, len(start.grid) - 1, length), len(start.grid) - 1]
    solver = Resampled(start.solver, tuple(start.grid.tolist()), times)
    return replace(start, solver=solver, grid=start.grid[keep])


def edit(
    system: System, image: Any, prompt: Any = "", strength: float | None = None, keep: float | None = None, **settings: Any
) -> list[Image.Image]:
    """PIL images: the picture changed towards the prompt, or as it says where the model follows instructions; see `asked`, and
    `Settings` for the keywords.
    """
    return _drawn(system, asked(system, image, strength, keep=keep), prompt, settings)


def asked(system: System, image: Any, strength: float | None, mask: Any = None, keep: float | None = None) -> Edit | Instruct:
    """The task of changing a picture as this system can: `Instruct` (keep, 1.5) where it follows instructions, else `Edit`
    (strength, 0.6, and mask). UserError of what is given and would not be heard.
    """
    if "instruct" not in system.encoders:
        if keep is not None:
            raise UserError(f"{system.name} follows no instructions, so that keep has no effect: leave it out, and give a strength")
        return Edit(image, 0.6 if strength is None else strength, mask)
    for name, given in (("strength", strength), ("mask", mask)):
        if given is not None:
            raise UserError(f"{system.name} follows an instruction, and hears no {name}: leave it out, or name another model")
    return Instruct(image, 1.5 if keep is None else keep)


def inpaint(
    system: System, image: Any, mask: Any, prompt: Any = "", strength: float = 1.0, resample: int = 0, **settings: Any
) -> list[Image.Image]:
    """PIL images: what is white in the mask drawn anew; see `Edit`, and `Settings` for the keywords."""
    return _drawn(system, Edit(image, strength, mask, resample), prompt, settings)


def _drawn(system: System, task: Edit | Instruct, prompt: Any, settings: Mapping[str, Any]) -> list[Image.Image]:
    return generate(system, prompt, tasks=[task], **{**settings, **size_for(system, task.opened, settings)})
