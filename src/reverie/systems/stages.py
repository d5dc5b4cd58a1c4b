"""Recipes of the pieces of a system that are trained alone, before it: its text encoder, its codec, the last stage of a cascade."""

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from reverie.codec import Latent, Net, Shrunk
from reverie.data.avatars import VALUES, tell
from reverie.data.pictures import Pictures
from reverie.encode import Concepts
from reverie.encode.words import FIRST
from reverie.errors import UserError
from reverie.measure.perceptual import perceptual
from reverie.nets.autoencoder import AutoencoderConfig
from reverie.nets.dcae import DCAE, DCAEConfig
from reverie.nets.patchgan import PatchGAN, PatchGANConfig
from reverie.nets.text import TextConfig
from reverie.nets.upsampler import UpsamplerConfig
from reverie.nets.vq import VQAutoencoder, VQConfig
from reverie.systems.recipe import Preset, channels_last, vocabulary
from reverie.systems.system import Part
from reverie.train.autoencoding import Adversary, Autoencoding, Rebuild, begun, plain, quantised, scattered, variational
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


@dataclass(frozen=True, kw_only=True)
class AutoencoderRecipe(Preset):
    """An autoencoder, in whose latents another system's diffusion runs."""

    net: AutoencoderConfig | VQConfig | DCAEConfig
    squared: bool = False
    """The error of a pixel is squared; otherwise its size is taken."""
    perceptual: float = 1.0
    """Weight of the distance of features (the extra `metrics`); 0 = none."""
    kl: float = 1e-6
    """Weight of the latents' divergence from noise, for a sum over latents beside a sum over pixels, as published."""
    codebook: float = 1.0
    """Weight of the distance between latents and codes, of a net with codes."""
    commitment: float = 0.25
    """Within it, how much the codes move towards the latents."""
    adversarial: float = 0.0
    """Weight of the word of a discriminator beside the other errors; 0 = none, 0.5 as published."""
    start: int = 5000
    """Step at which the discriminator joins in."""
    critic: PatchGANConfig = field(default_factory=PatchGANConfig)

    def prepare(self, pictures: Pictures) -> tuple[Part, Job]:
        """A fresh codec for these pictures, and its training job."""
        train, held = self.split(pictures)
        channels = pictures.images.shape[1]
        torch.manual_seed(self.training.seed)
        codec = Latent(replace(self.net, in_channels=channels))
        codec.autocast = self.training.autocast
        critic = PatchGAN(replace(self.critic, in_channels=channels)) if self.adversarial else None
        channels_last(codec)
        rebuild, price = self._way(codec.net, train.images)
        return Part(codec=codec, about=self.card(pictures)), Autoencoding(
            codec,
            rebuild,
            train.images,
            held.images,
            price=price,
            squared=self.squared,
            perceptual=(perceptual(), self.perceptual) if self.perceptual else None,
            adversary=Adversary(critic, self.start, self.adversarial) if critic else None,
        )

    def _way(self, net: Net, images: np.ndarray) -> tuple[Rebuild, float]:
        """How this kind of net is run while it learns, and the weight of its price."""
        if isinstance(net, VQAutoencoder):
            return quantised(scattered(net, images), self.commitment), self.codebook
        return (plain(net), 0.0) if isinstance(net, DCAE) else (variational(begun(net, images)), self.kl)
