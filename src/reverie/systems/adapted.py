"""LoRAs of a model, taught by a folder of pictures: the model stays as it is, and low-rank changes of its net learn.

reverie adapt lora --data pictures --model reverie-avatars --minutes 10
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from reverie.card import parse, rebuild
from reverie.data.pictures import Pictures
from reverie.denoiser import Denoiser
from reverie.encode import Classes
from reverie.errors import UserError
from reverie.nets.lora import adapt, changes
from reverie.systems.lora import save_lora
from reverie.systems.recipe import Preset, encode, prompt_of
from reverie.systems.shipped import open_model
from reverie.systems.system import System
from reverie.train.jobs import Diffusion, Prompt
from reverie.train.loop import Job
from reverie.train.objective import TIMES
from reverie.train.training import Training

HOLE = "{}"
"""Where a caption goes in a template."""


@dataclass(frozen=True, kw_only=True)
class TrainedLora:
    """A model with the changes that it learnt."""

    system: System
    about: dict[str, Any] = field(default_factory=dict)
    metadata: bool = True

    def write(self, path: Path) -> None:
        """The changes alone, in `lora.safetensors` beside it."""
        base = {"name": self.system.name, "hash": self.system.hash}
        told = self.system if self.metadata else None
        save_lora(self.system.denoiser.net, path.with_name(path.name.replace("model", "lora")), base, self.about, system=told)


@dataclass(frozen=True, kw_only=True)
class Adapting(Preset):
    """Low-rank changes of a model's net."""

    source: str = "folder"
    model: str
    """Shipped, or a file."""
    rank: int = 16
    alpha: float = 0.0
    """The changes are alpha / rank times what is learnt; 0 = the rank."""
    caption: str = HOLE
    """What is said of each picture, with its own caption in place of {}."""
    times: str = ""
    """The law of times; '' = that which the model learnt with, or the usual one of its process."""
    drop: float = 0.1
    """Share of captions replaced by the empty one."""
    metadata: bool = True
    """The file says of itself what other tools read: `modelspec` and `ss_` entries."""
    training: Training = field(
        default_factory=lambda: Training(batch=8, rate=1e-3, warmup=20, decay=0.5, widths=(0.05,), snapshots=0)
    )

    def prompts(self, system: System) -> Sequence[Any]:
        """Sixteen prompts for previews."""
        if isinstance(known := system.encoders.get("class"), Classes):
            return [i % len(known.classes) for i in range(16)]
        samples = system.about.get("recipe", {}).get("samples", ()) or [""]
        return [self.caption.replace(HOLE, samples[i % len(samples)]).strip(" ,") for i in range(16)]

    def prepare(self, pictures: Pictures) -> tuple[TrainedLora, Job]:
        """The model with changes that have learnt nothing yet, and the training job."""
        if self.rank < 1 or self.alpha < 0:
            raise UserError(
                f"the rank of a LoRA is {self.rank} and its alpha {self.alpha:g}; the rank is 1 or more, alpha 0 or more"
            )
        if len(pictures) < 2:
            raise UserError(f"{len(pictures)} picture: a LoRA needs two at least, one of which is held out to watch it by")
        base = open_model(self.model)
        train, held = self.split(pictures)
        torch.manual_seed(self.training.seed)
        net = base.denoiser.net
        if not isinstance(net, nn.Module) or not adapt(net, self.rank, self.alpha or None):
            raise UserError(f"{base.name} has no linear layer, which a LoRA would change")
        base.denoiser.autocast = self.training.autocast
        job = Diffusion(
            base.denoiser,
            encode(base.codec, train.images),
            encode(base.codec, held.images),
            times=rebuild(parse(self.times or usual_times(base)), TIMES, "times"),
            encoder=base.prompt_encoder,
            prompt=self._said(base, train),
            held_prompt=self._said(base, held),
            drop=self.drop,
        )
        job.module = nn.ModuleDict(
            {str(k): change for k, change in enumerate(changes(net))}
        )  # which alone is trained, averaged and kept
        return TrainedLora(system=base, about=self.card(pictures), metadata=self.metadata), job

    def _said(self, base: System, pictures: Pictures) -> Prompt | None:
        """What is said of picture i: its caption in the template, or the template alone."""
        if base.prompt_encoder is None:
            return None
        own = prompt_of(pictures)
        if isinstance(base.prompt_encoder, Classes):
            return own
        if pictures.caption is None:  # names of classes are the words of a folder without others
            own = None

        def said(i: int, rng: np.random.Generator) -> str:
            return self.caption.replace(HOLE, str(own(i, rng)) if own else "").strip(" ,")

        return said


def usual_times(base: System) -> str:
    """The law of times that a model learnt with, where it says; else uniform, or on a flow path in the middle."""
    objective = base.about.get("recipe", {}).get("objective", {})
    if times := objective.get("times"):
        return str(times)
    denoiser: Denoiser = base.denoiser
    return "logit_normal()" if getattr(denoiser.path, "card", {}).get("name") == "flow" else "uniform()"
