"""A system with its tasks as methods: what `reverie.load` gives."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from PIL import Image

from reverie.errors import UserError, nearest
from reverie.systems import System, open_model
from reverie.systems.opening import Opening
from reverie.tasks.edit import edit, inpaint
from reverie.tasks.generate import Preview, generate, steps
from reverie.tasks.outpaint import outpaint
from reverie.tasks.restore import restore
from reverie.tasks.upscale import upscale


class Ready(System):
    """A `System` that can be asked. System itself stays data, so that tasks can be added without touching it."""

    def generate(self, prompt: Any = "", **settings: Any) -> list[Image.Image]:
        """PIL images of a prompt, or of each of several: see `reverie.tasks.generate.Settings` for the keywords."""
        return generate(self, prompt, **settings)

    def steps(self, prompt: Any = "", **settings: Any) -> Iterator[Preview]:
        """Every step as it is taken; `step.pictures()` are the predicted clean pictures."""
        return steps(self, prompt, **settings)

    def edit(self, image: Any, prompt: Any = "", strength: float | None = None, **settings: Any) -> list[Image.Image]:
        """The picture (a path, a PIL picture, an array) changed towards the prompt: see `reverie.tasks.edit`."""
        return edit(self, image, prompt, strength, **settings)

    def inpaint(self, image: Any, mask: Any, prompt: Any = "", **settings: Any) -> list[Image.Image]:
        """What is white in the mask drawn anew: see `reverie.tasks.edit`."""
        return inpaint(self, image, mask, prompt, **settings)

    def outpaint(self, image: Any, prompt: Any = "", **settings: Any) -> list[Image.Image]:
        """The picture on a canvas that is larger by left, right, top and bottom pixels: see `reverie.tasks.outpaint`."""
        return outpaint(self, image, prompt, **settings)

    def upscale(self, image: Any, prompt: Any = "", factor: float = 2.0, **settings: Any) -> list[Image.Image]:
        """The picture enlarged, its details drawn: see `reverie.tasks.upscale`."""
        return upscale(self, image, prompt, factor, **settings)

    def restore(self, image: Any, prompt: Any = "", **settings: Any) -> list[Image.Image]:
        """The picture from what was measured of it, as operator="blur(sigma=1.5)": see `reverie.tasks.restore`."""
        return restore(self, image, prompt, **settings)


def load(name: str, **opening: Any) -> Ready:
    """A shipped model by name, or by path a file that reverie wrote or a published model, ready to be asked.

    opening: how, as `offload="blocks"`; see `reverie.systems.opening.Opening` for the keywords.
    """
    known = [f.name for f in fields(Opening)]
    for key in opening:
        if key not in known:
            raise UserError(f"load has no setting '{key}'.{nearest(key, known)}")
    return Ready(**vars(open_model(name, Opening(**opening))))
