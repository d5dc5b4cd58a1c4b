"""How the readers of noised pictures are trained that guide the small models, `--guide "classifier(reader='runs/...')"`.

reverie train fashion-classifier --out runs/fashion-classifier
reverie train avatars-scorer --out runs/avatars-scorer
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from reverie.card import parse, rebuild
from reverie.codec import Pixels
from reverie.data.pictures import Pictures
from reverie.denoiser import CLOCKS, Clock
from reverie.encode import Concepts
from reverie.errors import UserError
from reverie.measure.noisy import NoisyReader, Scorer
from reverie.nets.matcher import JOINT
from reverie.nets.noisy_classifier import NoisyClassifierConfig
from reverie.nets.unet import UNetConfig
from reverie.process.path import Path
from reverie.process.schedules import SCHEDULES
from reverie.systems.recipe import Preset, channels_last, encode
from reverie.systems.shipped import place
from reverie.systems.system import Part
from reverie.systems.weights import load_any
from reverie.train.loop import Job
from reverie.train.noisy import Noised, NoisyMatching, NoisyReading
from reverie.train.objective import TIMES
from reverie.train.training import Training


@dataclass(frozen=True, kw_only=True)
class NoisyRecipe(Preset):
    """A reader of noised points of some model's space."""

    net: NoisyClassifierConfig
    path: str = "edm()"
    """The process that noises; what is trained guides a model on any Gaussian one."""
    clock: str = "log_snr()"
    sigma_data: float = 0.5
    """Standard deviation of the data; scales the net's input."""
    times: str = "log_normal(mean=0, deviation=1.8)"

    def _noised(self, codec: Any, train: Pictures, held: Pictures) -> Noised:
        path = rebuild(parse(self.path), SCHEDULES, "path", Path)
        times = rebuild(parse(self.times), TIMES, "times")
        return Noised(encode(codec, train.images), encode(codec, held.images), path, times)

    def _clock(self) -> Clock:
        clock: Clock = rebuild(parse(self.clock), CLOCKS, "clock")
        return clock


@dataclass(frozen=True, kw_only=True)
class NoisyReaderRecipe(NoisyRecipe):
    """A classifier."""

    def prepare(self, pictures: Pictures) -> tuple[Part, Job]:
        """A fresh classifier for these pictures, and its training job."""
        if pictures.labels is None:
            raise UserError(f"{pictures.name} has no classes to tell apart: choose other pictures")
        train, held = self.split(pictures)
        torch.manual_seed(self.training.seed)
        channels = pictures.images.shape[1]
        net = replace(self.net, body=replace(self.net.body, in_channels=channels), size=self.size, classes=len(pictures.classes))
        reader = NoisyReader(net, pictures.classes, self._clock(), self.sigma_data)
        reader.autocast = self.training.autocast
        channels_last(reader)
        job = NoisyReading(reader, self._noised(Pixels(channels), train, held), *map(_labels, (train, held)))
        return Part(reader=reader, about=self.card(pictures)), job


@dataclass(frozen=True, kw_only=True)
class ScorerRecipe(NoisyRecipe):
    """A scorer of sentences for a model with a codec and an encoder of its own."""

    model: str
    """The model it guides, shipped or a file: its codec makes the space, and its encoder reads the captions."""

    def prepare(self, pictures: Pictures) -> tuple[Part, Job]:
        """A fresh scorer for these captions, and its training job."""
        system = load_any(place(self.model))
        words = next((e for e in system.encoders.values() if isinstance(e, Concepts)), None)
        if words is None or system.codec is None:
            raise UserError(f"{self.name}: {self.model} has no codec, or no encoder of attributes, for a scorer to build on")
        if pictures.caption is None:
            raise UserError(f"{pictures.name} has no captions to score: choose other pictures")
        train, held = self.split(pictures)
        torch.manual_seed(self.training.seed)
        channels, side, _ = system.codec.shape(self.size, self.size)
        net = replace(self.net, body=replace(self.net.body, in_channels=channels), size=side)
        scorer = Scorer(net, words, self._clock(), self.sigma_data)
        scorer.autocast = self.training.autocast
        channels_last(scorer)
        assert train.caption is not None and held.caption is not None
        job = NoisyMatching(scorer, self._noised(system.codec, train, held), train.caption, held.caption)
        return Part(reader=scorer, about=self.card(pictures)), job


def _labels(pictures: Pictures) -> np.ndarray:
    assert pictures.labels is not None
    return pictures.labels.astype(np.int64)


BODY = UNetConfig(channels=32, mult=(1, 2, 3), blocks=1, attention=(2,), head_width=32, patch=2, groups=8)

FASHION_CLASSIFIER = NoisyReaderRecipe(
    name="fashion-classifier",
    about="the class of noised Fashion-MNIST: for classifier guidance",
    source="fashion-mnist",
    size=32,
    net=NoisyClassifierConfig(body=BODY, size=32, classes=10),
    training=Training(
        steps=3000,
        batch=64,
        rate=2e-3,
        warmup=100,
        decay=0.7,
        weight_decay=0.02,
        holdout=1000,
        widths=(0.05,),
        snapshots=0,
        seed=103,
    ),
)

AVATARS_SCORER = ScorerRecipe(
    name="avatars-scorer",
    about="how well a caption fits a noised avatar: for guidance by a scorer",
    source="avatars",
    model="reverie-avatars",
    net=NoisyClassifierConfig(body=BODY, size=32, classes=JOINT),
    sigma_data=0.6,
    training=Training(
        steps=1600,
        batch=64,
        rate=2e-3,
        warmup=100,
        decay=0.7,
        weight_decay=0.02,
        holdout=512,
        widths=(0.05,),
        snapshots=0,
        seed=104,
    ),
)
