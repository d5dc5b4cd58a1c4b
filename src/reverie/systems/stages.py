"""Recipes of the pieces of a system that are trained alone, before it: its text encoder, and the last stage of a cascade."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from reverie.codec import Shrunk
from reverie.data.avatars import VALUES, tell
from reverie.data.pictures import Pictures
from reverie.encode import Concepts
from reverie.encode.words import FIRST
from reverie.errors import UserError
from reverie.nets.text import TextConfig
from reverie.nets.upsampler import UpsamplerConfig
from reverie.systems.recipe import Preset, channels_last, vocabulary
from reverie.systems.system import Part
from reverie.train.jobs import Enlarging
from reverie.train.loop import Job
from reverie.train.wording import Wording


@dataclass(frozen=True, kw_only=True)
class WordingRecipe(Preset):
    """A text encoder that learns the attributes of avatars from captions drawn afresh; the pictures give it its vocabulary."""

    words: TextConfig

    def prepare(self, pictures: Pictures) -> tuple[Part, Job]:
        """A fresh encoder for these captions, and its training job."""
        if pictures.caption is None or pictures.attributes is None:
            raise UserError(f"{pictures.name} has no attributes to learn words from: train the encoder with the denoiser instead")
        torch.manual_seed(self.training.seed)
        words = vocabulary(pictures)
        encoder = Concepts(words, replace(self.words, vocabulary=FIRST + len(words)), VALUES)
        held = [tell(np.random.default_rng([1, k])) for k in range(self.training.holdout)]
        return Part(encoders={"prompt": encoder}, about=self.card()), Wording(encoder, tell, held, autocast=self.training.autocast)


@dataclass(frozen=True, kw_only=True)
class EnlargerRecipe(Preset):
    """The last stage of a cascade: small pictures into large ones."""

    net: UpsamplerConfig
    noise: float = 0.1
    """Largest deviation of the noise on the small picture."""
    edges: float = 1.0
    """Weight of the error of the gradients."""

    def prepare(self, pictures: Pictures) -> tuple[Part, Job]:
        """A fresh enlarger for these pictures, and its training job."""
        train, held = self.split(pictures)
        torch.manual_seed(self.training.seed)
        codec = Shrunk(self.net)
        codec.autocast = self.training.autocast
        channels_last(codec)
        return Part(codec=codec, about=self.card(pictures)), Enlarging(
            codec, train.images, held.images, noise=self.noise, edges=self.edges
        )
