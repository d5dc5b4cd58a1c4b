"""Recipes: typed presets of a whole training, every field of which can be overridden on the command line.

A recipe says what it trains on, what the net is and what it learns; `job` turns it into something the loop can train, `system` into
something that can be sampled. Processes and laws are named constructors written as calls: `flow(shift=3)`.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor

from reverie.card import card_of, parse, rebuild
from reverie.codec import Pixels, Shrunk
from reverie.data.damages import DAMAGES, drawn
from reverie.data.pictures import Pictures
from reverie.data.sets import open_pictures
from reverie.denoiser import CLOCKS, Denoiser
from reverie.encode import SAID, Classes, Concepts, Damaged, Encoder, Words
from reverie.encode.words import FIRST, split
from reverie.errors import UserError
from reverie.nets.dit import DiTConfig
from reverie.nets.mlp import MLPConfig
from reverie.nets.mmdit import MMDiTConfig
from reverie.nets.text import TextConfig
from reverie.nets.unet import UNetConfig
from reverie.nets.upsampler import UpsamplerConfig
from reverie.process.path import Path
from reverie.process.rules import RULES
from reverie.process.schedules import SCHEDULES
from reverie.systems.shipped import place
from reverie.systems.system import Sampling, System
from reverie.systems.weights import NOISES, build_net, load_any
from reverie.train.bound import hybrid_on
from reverie.train.jobs import Diffusion, View, to_signal
from reverie.train.loop import Job
from reverie.train.mending import Mending
from reverie.train.objective import TIMES, WEIGHTS, denoising
from reverie.train.training import Training

USUAL_LEVEL = 0.05
"""Noise that is put on small pictures in use, by nets that learnt with as much."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The process, and what the net learns of it."""

    path: str = "edm()"
    rule: str = "edm(sigma_data=1)"
    clock: str = "log_snr()"
    sigma_data: float = 1.0
    """Standard deviation of the data; scales the net's input."""
    weight: str = "flat()"
    variance: float = 0.0
    """Share of the bound in the loss, which teaches the net the variance of its steps too; 0 = none, 0.001 as published
    (arXiv 2102.09672). The net needs twice the channels."""
    times: str = "log_normal(mean=0, deviation=1.3)"
    drop: float = 0.1
    """Share of prompts replaced by the empty one, for classifier-free guidance."""

    def denoiser(self, net: Any, autocast: torch.dtype | None) -> Denoiser:
        """The net with its process."""
        path = rebuild(parse(self.path), (*SCHEDULES, *NOISES), "path", Path)
        rule, clock = rebuild(parse(self.rule), RULES, "rule"), rebuild(parse(self.clock), CLOCKS, "clock")
        twice = self.variance > 0
        return Denoiser(net, path, rule, clock, sigma_data=self.sigma_data, learned_variance=twice, autocast=autocast)

    def laws(self, levels: int) -> dict[str, Any]:
        """Keyword arguments of a training job. levels: values of the data in [-1, 1], 0 = continuous."""
        times, weight = rebuild(parse(self.times), TIMES, "times"), rebuild(parse(self.weight), WEIGHTS, "weight")
        if self.variance and self.weight != "flat()":
            raise UserError(f"a weight ({self.weight}) and a learned variance cannot be had together: leave one at its default")
        objective = hybrid_on(scale=self.variance, levels=levels) if self.variance else partial(denoising, weight=weight)
        return {"times": times, "objective": objective, "drop": self.drop}


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What every training on pictures has: a name, data, and how long and hard."""

    name: str
    about: str = ""
    source: str
    """Kind of data: avatars, emoji, fashion-mnist, folder."""
    data: str = ""
    """Where it is: a folder or file; '' = the packaged or installed set."""
    size: int = 64
    """Pictures are square, of this many pixels."""
    training: Annotated[Training, tyro.conf.arg(name="")] = field(default_factory=Training)

    def pictures(self) -> Pictures:
        """The data."""
        return open_pictures(self.source, self.data, self.size)

    def split(self, pictures: Pictures) -> tuple[Pictures, Pictures]:
        """(training, held out): never more than a tenth is held out."""
        return pictures.split(self.holdout(len(pictures)))

    def holdout(self, count: int) -> int:
        """How many of so many pictures are held out."""
        return min(self.training.holdout, max(1, count // 10))

    def card(self, pictures: Pictures | None = None) -> dict[str, Any]:
        """What the file says of its making."""
        about: dict[str, Any] = {"name": self.name, "recipe": recipe_card(self)}
        if pictures is None:
            return about
        styles = sorted({a["style"] for a in pictures.attributes if "style" in a}) if pictures.attributes else []
        data = {"name": pictures.name, "count": len(pictures), "licence": pictures.licence, "credit": pictures.credit}
        return about | {"styles": styles, "data": data}


@dataclass(frozen=True, kw_only=True)
class Recipe(Preset):
    """A denoiser trained on pictures, or on smaller ones that an enlarger brings back to size."""

    shrink: int = 1
    """The denoiser works on pictures smaller by this factor; 1 = on the pixels themselves."""
    codec: str = ""
    """A model whose enlarger is used, shipped or a file; '' = plain repetition of pixels."""
    net: UNetConfig | DiTConfig | MMDiTConfig | MLPConfig
    words: TextConfig | None = None
    """The encoder of captions; none = pictures are told apart by class."""
    wording: str = ""
    """A model whose text encoder is used and kept as it is, shipped or a file; '' = trained with the denoiser."""
    apart: bool = False
    """What such an encoder tells of each attribute comes as a token, too."""
    damages: tuple[str, ...] = ()
    """What is done to the pictures that the net sees while it learns to give them back, as "small(factor=2)" or "grey()"."""
    objective: Objective = field(default_factory=Objective)
    sampling: Sampling = field(default_factory=Sampling)
    samples: tuple[str, ...] = ()
    """Prompts of the previews."""

    def pictures(self) -> Pictures:
        for card in self._small():  # said before the data is read, which may take long
            if self.size % card["factor"]:
                said = f"{self.name} makes small pictures of {self.size} pixels by a factor of {card['factor']}"
                raise UserError(f"{said}: name one that divides {self.size}")
        return super().pictures()

    def prompts(self, system: System) -> Sequence[Any]:
        """Sixteen prompts for previews."""
        if isinstance(known := system.encoders.get("class"), Classes):
            return [i % len(known.classes) for i in range(16)]
        return self.samples or [""] * 16

    def prepare(self, pictures: Pictures) -> tuple[System, Job]:
        """A fresh system for these pictures, and its training job."""
        train, held = self.split(pictures)
        torch.manual_seed(self.training.seed)
        encoders = self._worded() if self.wording else {} if self.damages and not self.words else self._encoders(pictures)
        codec = self._codec(pictures.images.shape[1])
        self._check(codec)
        denoiser = self.objective.denoiser(build_net(self.net), self.training.autocast)
        encoders = {**encoders, **self._damaged()}
        job = self._job(denoiser, codec, encoders, train, held)
        channels_last(denoiser)
        if self.training.compile:
            denoiser.net.compile()
        defaults = replace(self.sampling, size=(self.size, self.size))
        return System(denoiser=denoiser, codec=codec, encoders=encoders, defaults=defaults, about=self.card(pictures)), job

    def _damaged(self) -> Mapping[str, Any]:
        """What tells the net of a damaged picture, if it is to see one."""
        if not self.damages:
            return {}
        small = self._small()
        factor, noise = max((card["factor"] for card in small), default=1), max((card["noise"] for card in small), default=0.0)
        return {"damaged": Damaged(self.damages, int(factor), min(USUAL_LEVEL, float(noise)))}

    def _small(self) -> list[Mapping[str, Any]]:
        """The cards of the damages that make pictures small."""
        cards = [card_of(rebuild(parse(name), DAMAGES, "damage")) for name in self.damages]
        return [card for card in cards if card["name"] == "small"]

    def _seeing(self, encoders: Mapping[str, Encoder], codec: Any, images: np.ndarray) -> View | None:
        """What the net is shown of pictures uint8 (N, C, H, W)."""
        damaged: Any = encoders.get("damaged")
        if damaged is None:
            return None
        damage = drawn(self.damages)

        def look(index: np.ndarray, rng: np.random.Generator) -> Tensor:
            with torch.no_grad():
                seen: Tensor = damaged.told(codec, *damage(to_signal(images[index]), rng))
            return seen

        return look

    def _job(self, denoiser: Denoiser, codec: Any, encoders: Mapping[str, Encoder], train: Pictures, held: Pictures) -> Diffusion:
        """What is learnt of the pictures."""
        kind = partial(Mending, codec=codec) if self.damages else Diffusion
        return kind(
            denoiser,
            encode(codec, train.images),
            encode(codec, held.images),
            encoder=next((encoders[kind] for kind in SAID if kind in encoders), None),
            view=self._seeing(encoders, codec, train.images),
            held_view=self._seeing(encoders, codec, held.images),
            prompt=prompt_of(train),
            held_prompt=prompt_of(held),
            **self.objective.laws(256 if self.shrink == 1 else 0),
        )

    def _check(self, codec: Any) -> None:
        """The net must take what the codec gives, and answer with as much, or twice that where it learns a variance."""
        channels = codec.shape(self.size, self.size)[0]
        shown = channels + 1 if self.damages else 0
        wanted = (channels + shown, channels * (2 if self.objective.variance else 1))
        found = (getattr(self.net, "in_channels", channels), getattr(self.net, "out_channels", wanted[1]))
        if found != wanted:
            raise UserError(
                f"{self.name}: the net has {found[0]} channels in and {found[1]} out; this data needs {wanted[0]} and {wanted[1]}"
            )

    def _codec(self, channels: int) -> Any:
        if self.shrink == 1:
            return Pixels(channels)
        if self.codec:
            return self._opened()
        return Shrunk(UpsamplerConfig(in_channels=channels, factor=self.shrink, blocks=0))

    def _opened(self) -> Any:
        """The codec of another model."""
        folder, _, made = self.codec.rpartition("/")
        if folder == "runs" and not os.path.exists(self.codec):  # the place where its own recipe leaves it
            raise UserError(f"{self.name} needs a codec: train it first with `reverie train {made}`, or name yours with --codec")
        if (codec := load_any(place(self.codec)).codec) is None:
            raise UserError(f"{self.name}: the codec {self.codec} is a part without one: name a model that has an enlarger")
        if codec.factor != self.shrink:
            raise UserError(
                f"{self.name}: the codec {self.codec} makes pictures {codec.factor} times smaller, not {self.shrink} times: "
                f"name another, or give --shrink {codec.factor} and a net for it"
            )
        return codec

    def _worded(self) -> Mapping[str, Encoder]:
        """The encoder of another model."""
        encoders = load_any(place(self.wording)).encoders
        if not encoders:
            raise UserError(f"{self.name}: the wording {self.wording} has no text encoder: name a model that has one")
        if not self.apart:
            return encoders
        if not all(isinstance(encoder, Concepts) for encoder in encoders.values()):
            raise UserError(f"{self.name}: the wording {self.wording} does not tell of attributes: leave out --apart")
        return {kind: encoder.parted() for kind, encoder in encoders.items() if isinstance(encoder, Concepts)}

    def _encoders(self, pictures: Pictures) -> Mapping[str, Encoder]:
        if self.words and pictures.caption is not None:
            return {"prompt": fresh_words(pictures, self.words)}
        if pictures.labels is not None:
            width = getattr(self.net, "vector_dim", None) or 128
            return {"class": Classes(pictures.classes, width)}
        return {}


def recipe_card(recipe: Any) -> dict[str, Any]:
    """The recipe as plain values."""
    return {"name": type(recipe).__name__, **{k: card_of(v) for k, v in asdict(recipe).items() if k != "about"}}


def channels_last(module: torch.nn.Module) -> None:
    """Convolutions on CPU run faster with the channels innermost."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@torch.no_grad()
def encode(codec: Any, images: np.ndarray, batch: int = 64) -> Tensor:
    """Pictures uint8 (N, C, H, W) as points of the diffusion's space."""
    return torch.cat([codec.encode(to_signal(images[i : i + batch])) for i in range(0, len(images), batch)])


def fresh_words(pictures: Pictures, text: TextConfig) -> Words:
    """An untrained text encoder that knows the words of these captions."""
    words = vocabulary(pictures)
    return Words(words, replace(text, vocabulary=FIRST + len(words)))


def vocabulary(pictures: Pictures, draws: int = 4) -> list[str]:
    """Every word of the captions, with those that are drawn anew each time drawn a few times."""
    if pictures.caption is None:
        return []
    rng = np.random.default_rng(0)
    return sorted({w for i in range(len(pictures)) for _ in range(draws) for w in split(pictures.caption(i, rng))})


def prompt_of(pictures: Pictures) -> Any:
    if pictures.caption is not None:
        return pictures.caption
    if pictures.labels is not None:
        labels = pictures.labels
        return lambda i, rng: int(labels[i])
    return None
