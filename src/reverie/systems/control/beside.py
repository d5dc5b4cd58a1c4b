"""What stands beside a model of ours and learns, while that stays as it is: a control, or an image prompt."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from reverie.card import parse, rebuild
from reverie.data.pictures import Pictures
from reverie.errors import UserError
from reverie.systems.control.kept import save_control
from reverie.systems.recipe import Preset, channels_last, encode, prompt_of
from reverie.systems.shipped import place
from reverie.systems.system import System
from reverie.systems.weights import load
from reverie.train.jobs import View
from reverie.train.loop import Job
from reverie.train.objective import TIMES
from reverie.train.steering import Steering


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What has learnt, with the model that it belongs to."""

    net: Any
    base: System
    about: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """The net beside the model, alone."""
        save_control(self.net, path, self.base, self.about)


@dataclass(frozen=True, kw_only=True)
class Beside(Preset):
    """A net that is shown something of each picture, beside a model of ours."""

    base: str = "reverie-avatars"
    """The model: shipped, or a file."""
    drop: float = 0.5
    """Share of prompts replaced by the empty one, so that what is shown must be heeded (arXiv:2302.05543, section 3.3)."""
    times: str = "log_normal(mean=-0.6, deviation=1.4)"

    @abstractmethod
    def check(self) -> None:
        """UserError for what does not go together, before anything is opened."""

    @abstractmethod
    def made(self, base: System) -> nn.Module:
        """The net, fresh or begun from another."""

    @abstractmethod
    def job(self, net: Any, base: System) -> Callable[..., Steering]:
        """What makes the training job of the net, but for data, words and times."""

    @abstractmethod
    def view(self, images: np.ndarray) -> View:
        """What the net is shown of pictures uint8 (N, C, H, W)."""

    @abstractmethod
    def shown(self) -> dict[str, Any]:
        """The same, as the file says it."""

    def prepare(self, pictures: Pictures) -> tuple[Trained, Job]:
        """The net and its training job."""
        self.check()
        train, held = self.split(pictures)
        base = load(place(self.base))
        if base.defaults.size != (self.size, self.size):
            drawn = base.defaults.size[1]
            raise UserError(f"{self.base} draws {drawn} pixels, and the pictures have {self.size}: give that --size")
        torch.manual_seed(self.training.seed)
        net = self.made(base)
        base.denoiser.autocast = self.training.autocast
        channels_last(base.denoiser)
        channels_last(net)
        job = self.job(net, base)(
            encode(base.codec, train.images),
            encode(base.codec, held.images),
            encoder=base.prompt_encoder,
            prompt=prompt_of(train),
            held_prompt=prompt_of(held),
            view=self.view(train.images),
            held_view=self.view(held.images),
            times=rebuild(parse(self.times), TIMES, "times"),
            drop=self.drop,
            codec=base.codec,
        )
        return self.trained(net=net, base=base, about=self.card(pictures) | self.shown()), job

    def trained(self, **made: Any) -> Trained:
        """What is written."""
        return Trained(**made)
