"""LoRAs of a model, taught by a folder of pictures: the model stays as it is, and low-rank changes of its net learn.

reverie adapt lora --data pictures --model reverie-avatars --minutes 10
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reverie.card import parse, rebuild
from reverie.data.album import Album, Choices, open_album
from reverie.data.captions import HOLE
from reverie.denoiser import Denoiser
from reverie.encode import Classes
from reverie.errors import UserError
from reverie.nets.lora import adapt, changes
from reverie.systems.albums import teaching
from reverie.systems.lora import save_lora
from reverie.systems.recipe import Preset
from reverie.systems.shipped import open_model
from reverie.systems.system import System
from reverie.train.loop import Job
from reverie.train.objective import TIMES
from reverie.train.training import Training


@dataclass(frozen=True, kw_only=True)
class TrainedLora:
    """A model with the changes that it learnt."""

    system: System
    about: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """The changes alone, in `lora.safetensors` beside it."""
        base = {"name": self.system.name, "hash": self.system.hash}
        save_lora(self.system.denoiser.net, path.with_name(path.name.replace("model", "lora")), base, self.about)


@dataclass(frozen=True, kw_only=True)
class Adapting(Preset, Choices):
    """Low-rank changes of a model's net."""

    source: str = "folder"
    model: str
    """Shipped, or a file."""
    rank: int = 16
    alpha: float = 0.0
    """The changes are alpha / rank times what is learnt; 0 = the rank."""
    caption: str = HOLE
    """What is said of each picture, with its own caption in place of {}."""
    step: int = 0
    """Sides of pictures are multiples of this; 0 = of what the model takes."""
    times: str = ""
    """The law of times; '' = that which the model learnt with, or the usual one of its process."""
    training: Training = field(
        default_factory=lambda: Training(batch=8, rate=1e-3, warmup=20, decay=0.5, widths=(0.05,), snapshots=0)
    )

    def prompts(self, system: System) -> Sequence[Any]:
        """Sixteen prompts for previews."""
        if isinstance(known := system.encoders.get("class"), Classes):
            return [i % len(known.classes) for i in range(16)]
        samples = system.about.get("recipe", {}).get("samples", ()) or [""]
        return [self.caption.replace(HOLE, samples[i % len(samples)]).strip(" ,") for i in range(16)]

    def pictures(self) -> Album:  # type: ignore[override]
        """The data: a folder, or a data set in TOML, in sizes that the model takes."""
        step = self.step or open_model(self.model).step
        return open_album(self.data, (self.size, self.size), step, self, self.caption)

    def card(self, pictures: Any = None) -> dict[str, Any]:
        """What the file says: the record of its pictures, and of places nothing but the last name, for files are given away."""
        about = super().card(pictures)
        names = {where: Path(getattr(self, where)).name for where in ("data", "regular", "model")}
        about["recipe"] = {**about["recipe"], **names}
        return about if pictures is None else about | {"data": {**about["data"], **pictures.record()}}

    def prepare(self, pictures: Album) -> tuple[TrainedLora, Job]:
        """The model with changes that have learnt nothing yet, and the training job."""
        if self.rank < 1 or self.alpha < 0:
            raise UserError(
                f"the rank of a LoRA is {self.rank} and its alpha {self.alpha:g}; the rank is 1 or more, alpha 0 or more"
            )
        if len(pictures) < 2 and pictures.shots[0].held is None:
            raise UserError(f"{len(pictures)} picture: a LoRA needs two at least, one of which is held out to watch it by")
        base = open_model(self.model)
        train, held = pictures.split(self.holdout(len(pictures)))
        torch.manual_seed(self.training.seed)
        net = base.denoiser.net
        if not isinstance(net, nn.Module) or not adapt(net, self.rank, self.alpha or None):
            raise UserError(f"{base.name} has no linear layer, which a LoRA would change")
        base.denoiser.autocast = self.training.autocast
        times = rebuild(parse(self.times or usual_times(base)), TIMES, "times")
        job = teaching(base, train, held, times=times, choices=self, batch=self.training.batch)
        job.module = nn.ModuleDict(
            {str(k): change for k, change in enumerate(changes(net))}
        )  # which alone is trained, averaged and kept
        return TrainedLora(system=base, about=self.card(pictures)), job


def usual_times(base: System) -> str:
    """The law of times that a model learnt with, where it says; else uniform, or on a flow path in the middle."""
    objective = base.about.get("recipe", {}).get("objective", {})
    if times := objective.get("times"):
        return str(times)
    denoiser: Denoiser = base.denoiser
    return "logit_normal()" if getattr(denoiser.path, "card", {}).get("name") == "flow" else "uniform()"
