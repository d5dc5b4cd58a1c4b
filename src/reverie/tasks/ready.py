"""A system with its tasks as methods: what `reverie.load` gives."""

from collections.abc import Iterator
from typing import Any

from PIL import Image

from reverie.systems import System, open_model
from reverie.tasks.generate import Preview, generate, steps


class Ready(System):
    """A `System` that can be asked. System itself stays data, so that tasks can be added without touching it."""

    def generate(self, prompt: Any = "", **settings: Any) -> list[Image.Image]:
        """PIL images of a prompt, or of each of several: see `reverie.tasks.generate.Settings` for the keywords."""
        return generate(self, prompt, **settings)

    def steps(self, prompt: Any = "", **settings: Any) -> Iterator[Preview]:
        """Every step as it is taken; `step.pictures()` are the predicted clean pictures."""
        return steps(self, prompt, **settings)


def load(name: str) -> Ready:
    """A shipped model by name, or a `.safetensors` file that reverie wrote, ready to be asked."""
    return Ready(**vars(open_model(name)))
