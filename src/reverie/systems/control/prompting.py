"""How image prompts are trained (IP-Adapter, arXiv:2308.06721): a model of ours stays, and learns to see a picture as a prompt.

reverie train avatars-picture --out runs/avatars-picture
reverie generate "" --control "image_prompt(net='runs/avatars-picture', image='face.png')"
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from reverie.adapt import ImagePrompt, ImagePrompted
from reverie.card import card_of, parse, rebuild
from reverie.errors import UserError
from reverie.nets.image_prompt import ImagePromptConfig, ImagePromptNet
from reverie.systems.control.beside import Beside
from reverie.systems.control.image_prompt import EYES, attentions
from reverie.systems.control.recipe import TRAINING
from reverie.systems.system import System
from reverie.train.jobs import View, to_signal
from reverie.train.steering import Prompting, Steering


@dataclass(frozen=True, kw_only=True)
class ImagePromptRecipe(Beside):
    """An image prompt of a model of ours, which learns to draw a picture from what an encoder says of it."""

    eye: str = "lite0()"
    """The encoder: lite0(), of the extra `metrics`, or clip(folder='...') from a folder of transformers' layout."""
    kind: Literal["projection", "resampler"] = "resampler"
    """Whether it hears one vector of a picture, or of each place."""
    tokens: int = 8
    """What a picture becomes."""
    hidden: int = 256
    """Width of what reads the places."""
    depth: int = 2
    """And its layers."""
    drop_pictures: float = 0.1
    """Share of pictures that are not shown, for the other half of guidance."""

    def check(self) -> None:
        """UserError for shares that are none, and an encoder that there is not."""
        if not 0 <= self.drop_pictures < 1:
            raise UserError(f"--drop-pictures is {self.drop_pictures}; it is a share, at least 0 and less than 1")
        if self.tokens < 1 or self.depth < 1 or self.hidden < 1:
            raise UserError(f"--tokens, --depth and --hidden are {self.tokens}, {self.depth}, {self.hidden}; each is 1 or more")

    def made(self, base: System) -> ImagePromptNet:
        """A silent one, for the attentions that the model has."""
        at, widths, vector = attentions(base)
        config = ImagePromptConfig(
            kind=self.kind,
            embed=self._seeing().width(self.kind == "resampler"),
            tokens=self.tokens,
            width=self.hidden,
            sites=widths,
            at=at,
            vector=vector,
            hidden=self.hidden,
            heads=max(1, self.hidden // 64),
            depth=self.depth,
            ratio=2,
        )
        return ImagePromptNet(config)

    def job(self, net: Any, base: System) -> Callable[..., Steering]:
        """Its model hears it."""
        prompted = ImagePrompted(base.denoiser, [ImagePrompt(net=net, eye=self._seeing(), name=self.name)])
        return partial(Prompting, prompted, learnt=net)

    def view(self, images: np.ndarray) -> View:
        """What the encoder says of them, asked once of each; of some that it says nothing."""
        eye, places = self._seeing(), self.kind == "resampler"
        nothing = eye.unsaid(torch.zeros(1, 3, 16, 16), places)
        known = torch.zeros(len(images), *nothing.shape[1:], dtype=torch.float16)
        there = np.zeros(len(images), bool)

        def look(index: np.ndarray, rng: np.random.Generator) -> Tensor:
            new = np.unique(index[~there[index]])
            if len(new):
                known[new] = eye.said(to_signal(images[new]).expand(-1, 3, -1, -1), places).half()
                there[new] = True
            seen = torch.from_numpy(rng.random(len(index)) >= self.drop_pictures)
            return torch.where(seen.view(-1, *[1] * (known.ndim - 1)), known[index].float(), nothing)

        return look

    def shown(self) -> dict[str, Any]:
        """The encoder, without the place where it lies."""
        card = card_of(self._seeing())
        return {"eye": {k: v for k, v in card.items() if k != "folder"}}

    def _seeing(self) -> Any:
        return rebuild(parse(self.eye), EYES, "eye")


PICTURE = ImagePromptRecipe(
    name="avatars-picture",
    about="a picture as a prompt of reverie-avatars",
    source="avatars",
    times="log_normal(mean=0.0, deviation=1.6)",
    training=TRAINING,
)
