"""How image prompts are trained (IP-Adapter, arXiv:2308.06721): a model of ours stays, and learns to see a picture as a prompt.

reverie train avatars-picture --out runs/avatars-picture
reverie generate "" --control "image_prompt(net='runs/avatars-picture', image='face.png')"
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from reverie.adapt import ImagePrompt, ImagePrompted
from reverie.nets.image_prompt import ImagePromptConfig, ImagePromptNet
from reverie.systems.control.image_prompt import attentions
from reverie.systems.control.recipe import TRAINING
from reverie.systems.control.seeing import Seeing
from reverie.systems.system import System
from reverie.train.steering import Prompting, Steering


@dataclass(frozen=True, kw_only=True)
class ImagePromptRecipe(Seeing):
    """An image prompt of a model of ours, which learns to draw a picture from what an encoder says of it."""

    def made(self, base: System) -> ImagePromptNet:
        """A silent one, for the attentions that the model has."""
        at, widths, vector = attentions(base)
        return ImagePromptNet(ImagePromptConfig(**self.shape(), width=self.hidden, sites=widths, at=at, vector=vector))

    def job(self, net: Any, base: System) -> Callable[..., Steering]:
        """Its model hears it."""
        prompted = ImagePrompted(base.denoiser, [ImagePrompt(net=net, eye=self.seeing(), name=self.name)])
        return partial(Prompting, prompted, learnt=net, reading=self.read(base))


PICTURE = ImagePromptRecipe(
    name="avatars-picture",
    about="a picture as a prompt of reverie-avatars",
    source="avatars",
    times="log_normal(mean=0.0, deviation=1.6)",
    training=replace(TRAINING, steps=3000),
)
