"""How controls are trained: a model of ours stays as it is, and a net beside it learns to heed a hint of the picture.

reverie train avatars-edges --out runs/avatars-edges
reverie generate "a bald man" --control "control(net='runs/avatars-edges', image='photo.png', take='edges()')"
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.adapt import Control, Controlled
from reverie.card import parse, rebuild
from reverie.data.hints import HINTS
from reverie.data.pictures import Pictures
from reverie.errors import UserError
from reverie.nets.control import control_of
from reverie.nets.control_transformer import control_transformer_of
from reverie.nets.unet import UNet
from reverie.systems.recipe import Preset, _prompt, channels_last, encode
from reverie.systems.shipped import place
from reverie.systems.system import System
from reverie.systems.weights import load
from reverie.train.jobs import View, to_signal
from reverie.train.loop import Job, Training
from reverie.train.objective import TIMES
from reverie.train.steering import Steering


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A control with the model that it belongs to."""

    control: Any
    base: System
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ControlRecipe(Preset):
    """A control of a model of ours, by one kind of hint."""

    base: str = "reverie-avatars"
    """The model: shipped, or a file."""
    hint: str = "edges()"
    """What is drawn of each picture and shown: edges(), sketch(), shading(), regions(), low(), palette()."""
    blocks: int = 0
    """How many blocks of a transformer are copied; 0 = half."""
    drop: float = 0.5
    """Share of prompts replaced by the empty one, so that the hint must be heeded (arXiv:2302.05543, section 3.3)."""
    times: str = "log_normal(mean=-0.6, deviation=1.4)"

    def prepare(self, pictures: Pictures) -> tuple[Trained, Job]:
        """A fresh control for the model, and its training job."""
        train, held = self.split(pictures)
        base = load(place(self.base))
        if base.defaults.size != (self.size, self.size):
            drawn = base.defaults.size[1]
            raise UserError(f"{self.base} draws {drawn} pixels, and the pictures have {self.size}: give that --size")
        torch.manual_seed(self.training.seed)
        net: Any = base.denoiser.net
        factor = base.codec.factor
        control = control_of(net, factor) if isinstance(net, UNet) else control_transformer_of(net, self.blocks, factor=factor)
        base.denoiser.autocast = self.training.autocast
        channels_last(base.denoiser)
        channels_last(control)
        told = self.card(pictures) | {"hint": self.hint}
        job = Steering(
            Controlled(base.denoiser, [Control(net=control, name=self.name)]),
            encode(base.codec, train.images),
            encode(base.codec, held.images),
            learnt=control,
            encoder=base.prompt_encoder,
            prompt=_prompt(train),
            held_prompt=_prompt(held),
            view=self._hints(train.images),
            held_view=self._hints(held.images),
            times=rebuild(parse(self.times), TIMES, "times"),
            drop=self.drop,
            codec=base.codec,
        )
        return Trained(control=control, base=base, about=told), job

    def _hints(self, images: np.ndarray) -> View:
        """The hints (B, 3, H, W) of pictures uint8 (N, C, H, W), each drawn when it is first asked for."""
        draw = rebuild(parse(self.hint), HINTS, "hint")
        known = np.zeros((len(images), 3, *images.shape[2:]), np.uint8)
        there = np.zeros(len(images), bool)

        def look(index: np.ndarray, rng: np.random.Generator) -> Tensor:
            for i in index[~there[index]]:
                pixels = np.ascontiguousarray(np.broadcast_to(images[i], known.shape[1:]).transpose(1, 2, 0))
                known[i], there[i] = draw(pixels).transpose(2, 0, 1), True
            return to_signal(known[index])

        return look


TRAINING = Training(steps=1500, batch=16, rate=1e-3, warmup=50, decay=0.5, holdout=256, widths=(0.05,), snapshots=0)
EDGES = ControlRecipe(
    name="avatars-edges", about="a control of reverie-avatars by edges", source="avatars", hint="edges()", training=TRAINING
)
REGIONS = replace(EDGES, name="avatars-regions", about="a control of reverie-avatars by patches of colour", hint="regions()")
PALETTE = replace(EDGES, name="avatars-palette", about="a control of reverie-avatars by its main colours", hint="palette()")
SHADING = replace(EDGES, name="avatars-shading", about="a control of reverie-avatars by shading, like depth", hint="shading()")
SKETCH = replace(EDGES, name="avatars-sketch", about="a control of reverie-avatars by a sketch", hint="sketch()")
LOW = replace(EDGES, name="avatars-low", about="a control of reverie-avatars by eight squares each way", hint="low()")
