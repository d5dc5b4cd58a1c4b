"""Models taught by a folder of pictures: what learns is low-rank changes, chosen weights themselves, words, or several of these.

reverie adapt lora --data pictures --model reverie-avatars --minutes 10
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reverie.card import parse, rebuild
from reverie.data.album import Album, Choices, open_album
from reverie.data.captions import HOLE
from reverie.denoiser import Denoiser
from reverie.encode import Classes
from reverie.errors import UserError
from reverie.nets.lora import adapt, changes
from reverie.systems.albums import teaching
from reverie.systems.control.naming import initial, named
from reverie.systems.embeddings import Embedding, readers, save_embedding, teach
from reverie.systems.lora import save_lora
from reverie.systems.lora.places import prefixes
from reverie.systems.opening import LEARNING
from reverie.systems.recipe import Preset
from reverie.systems.shipped import open_model
from reverie.systems.system import System
from reverie.systems.weights import card, save
from reverie.train.loop import Job
from reverie.train.objective import TIMES
from reverie.train.training import Training

ALL = "."
"""The pattern of every layer: the whole net."""


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """A model with what it learnt. before: chosen tensors as they were, of which differences are written; whole: the model is
    written instead; word: what it is called, '' = none."""

    system: System
    before: Mapping[str, Tensor] = field(default_factory=dict)
    word: str = ""
    whole: bool = False
    about: dict[str, Any] = field(default_factory=dict)
    metadata: bool = True

    def write(self, path: Path) -> None:
        """The model where all of it learnt, changes alone in `lora.safetensors`, words in `embedding.safetensors`, beside it."""
        system, base = self.system, {"name": self.system.name, "hash": self.system.hash}
        differences = dict(self._differences())
        if self.whole:
            save(system, path)
        elif differences or any(changes(system.denoiser.net)) or any(any(changes(m)) for _, m in prefixes(system.prompt_encoder)):
            save_lora(
                system, path.with_name(path.name.replace("model", "lora")), base, self.about, more=differences, told=self.metadata
            )
        if self.word:
            vectors = {part: reader.learnt().of(self.word) for part, reader in readers(system.prompt_encoder).items()}
            save_embedding(
                path.with_name(path.name.replace("model", "embedding")), [Embedding(self.word, vectors)], base, self.about
            )

    def _differences(self) -> Iterator[tuple[str, Tensor]]:
        own = dict(self.system.denoiser.net.named_parameters())
        for key, was in self.before.items():
            layer, _, kind = key.rpartition(".")
            name = f"{layer}.diff_b" if kind == "bias" else f"{layer}.diff" if kind == "weight" else f"{key}.diff"
            yield name, own[key].detach() - was


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Which parts of a model learn, and how."""

    alpha: float = 0.0
    """The changes are alpha / rank times what is learnt; 0 = the rank."""
    dropout: float = 0.0
    """Share of a layer's input that its change does not see while it learns."""
    lengths: bool = False
    """The lengths of the rows of weights learn apart from their directions (DoRA)."""
    convolutions: bool = False
    """Convolutions have changes, too."""
    encoder: bool = False
    """So has the encoder of words."""
    layers: str = ""
    """Of the layers that have changes, a regular expression of which a part of their names fits; '' = all."""
    whole: str = ""
    """Likewise of layers whose weights themselves learn; '' = none, '.' = the net."""
    word: str = ""
    """A word that learns, by the name that captions and prompts have for it; '' = none."""
    vectors: int = 1
    """Of the word."""
    initial: str = ""
    """Known words, of which the vectors begin as copies; '' = the middle of all words."""
    begin: str = ""
    """An encoder (`reverie train avatars-subject`) that says what the vectors begin as, from the pictures; '' = --initial."""
    metadata: bool = True
    """The file says of itself what other tools read: `modelspec` and `ss_` entries."""


@dataclass(frozen=True, kw_only=True)
class Adapting(Preset, Choices, Parts):
    """What a model learns from a folder of pictures."""

    source: str = "folder"
    model: str
    """Shipped, or a file."""
    rank: int = 16
    """Of low-rank changes of the net's layers; 0 = none."""
    caption: str = HOLE
    """What is said of each picture, with its own caption in place of {}."""
    times: str = ""
    """The law of times; '' = that which the model learnt with, or the usual one of its process."""
    step: int = 0
    """Sides of pictures are multiples of this; 0 = of what the model takes."""
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
        names = {where: Path(getattr(self, where)).name for where in ("data", "regular", "model", "begin")}
        about |= {"recipe": {**about["recipe"], **names}, "version": version("reverie")}
        return about if pictures is None else about | {"data": {**about["data"], **pictures.record()}}

    def prepare(self, pictures: Album) -> tuple[Adapted, Job]:
        """The model, which has learnt nothing yet, and the training job."""
        self._check(pictures)
        base = open_model(self.model, LEARNING)
        base = replace(base, defaults=replace(base.defaults, size=(self.size, self.size)))  # what is drawn to watch by
        alone = len(pictures) == 1  # and so what it is watched by
        train, held = (pictures, pictures) if alone else pictures.split(self.holdout(len(pictures)))
        torch.manual_seed(self.training.seed)
        for part in (base.denoiser, base.prompt_encoder):
            if isinstance(part, nn.Module):
                part.requires_grad_(False)
        net = base.denoiser.net
        if not isinstance(net, nn.Module):
            raise UserError(f"{base.name} has no net that could learn")
        chosen = self._chosen(base, net)
        whole = self.whole == ALL and writable(base)
        before = {} if whole else {k: v.detach().clone() for k, v in net.named_parameters() if v.requires_grad}
        learns = nn.ModuleDict(
            {"changes": self._changes(base, net, set(chosen)), "whole": chosen, "words": self._words(base, train)}
        )
        base.denoiser.autocast = self.training.autocast
        times = rebuild(parse(self.times or usual_times(base)), TIMES, "times")
        frozen = not (self.word or self.encoder)  # nothing of what is said changes while it learns
        job = teaching(base, train, held, times=times, choices=self, batch=self.training.batch, frozen=frozen)
        job.module = learns  # which alone is trained, averaged and kept
        made = Adapted(
            system=base,
            before=before,
            word=self.word,
            whole=whole,
            metadata=self.metadata,
            about=self.card(pictures),
        )
        return made, job

    def _check(self, pictures: Album) -> None:
        """What can be refused before a model is opened."""
        if self.rank < 0 or self.alpha < 0:
            raise UserError(f"the rank of a LoRA is {self.rank} and its alpha {self.alpha:g}; neither is below 0")
        if not (self.rank or self.whole or self.word):
            raise UserError("nothing is to learn: give a --rank of 1 or more, --whole, or a --word")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}; it is a share, at least 0 and less than 1")
        if self.word and self.vectors < 1:
            raise UserError(f"{self.word} is to have {self.vectors} vectors; a word has 1 or more")
        if self.word and self.word.casefold() not in self.caption.casefold():
            raise UserError(f"--caption '{self.caption}' does not say the word that learns: write {self.word} into it")
        for flag, pattern in (("layers", self.layers), ("whole", self.whole)):
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(f"--{flag} is '{pattern}', which is no regular expression ({error})") from None
        if self.begin and (not self.word or self.initial or self.vectors != 1):
            raise UserError("--begin says what the vectors of a --word begin as: give that, and neither --initial nor --vectors")
        if len(pictures) < 2 and pictures.shots[0].held is None and not self.begin:
            raise UserError(
                f"{len(pictures)} picture: two are needed at least, one of which is held out to watch by; by one alone learns a "
                "word that an encoder begins (--begin)"
            )

    def _changes(self, base: System, net: nn.Module, chosen: Collection[nn.Module]) -> nn.ModuleList:
        """Low-rank changes, which are in place from now on."""
        if not self.rank:
            return nn.ModuleList()
        parts = [net, *(m for _, m in prefixes(base.prompt_encoder))] if self.encoder else [net]
        if self.encoder and len(parts) == 1:
            raise UserError(f"{base.name} has no encoder of words that could learn: leave out --encoder")
        for part in parts:
            made = adapt(
                part,
                self.rank,
                self.alpha or None,
                dropout=self.dropout,
                lengths=self.lengths,
                convolutions=self.convolutions,
                layers=self.layers,
                without=chosen,
            )
            if not made:
                which = f" whose name fits '{self.layers}'" if self.layers else ""
                raise UserError(f"{base.name} has no layer{which} which a LoRA would change")
        return nn.ModuleList(change for part in parts for change in changes(part))

    def _chosen(self, base: System, net: nn.Module) -> nn.ModuleList:
        """Layers whose weights themselves learn."""
        if not self.whole:
            return nn.ModuleList()
        if self.whole == ALL:
            return nn.ModuleList([net.requires_grad_(True)])
        kinds = (nn.Linear, nn.Conv2d)
        found = [m for name, m in net.named_modules() if isinstance(m, kinds) and re.search(self.whole, name)]
        if not found:
            some = ", ".join([name for name, m in net.named_modules() if isinstance(m, kinds)][:4])
            raise UserError(f"{base.name} has no layer whose name fits --whole '{self.whole}'; it has {some} and others")
        return nn.ModuleList(layer.requires_grad_(True) for layer in found)

    def _words(self, base: System, pictures: Album) -> nn.ModuleList:
        """The word that learns, in each encoder that can."""
        if not self.word:
            return nn.ModuleList()
        known = readers(base.prompt_encoder)
        if self.begin:
            word = named(self.begin, base, [shot.image for shot in pictures.shots], self.word)
        else:
            word = Embedding(self.word, {part: initial(reader, self.initial, self.vectors) for part, reader in known.items()})
        teach(base, word)
        return nn.ModuleList(reader.learnt().requires_grad_(True) for reader in known.values())


def writable(base: System) -> bool:
    """Whether a system can be written as a file of ours; what publishers keep in folders cannot."""
    try:
        card(base)
    except UserError:
        return False
    return True


def usual_times(base: System) -> str:
    """The law of times that a model learnt with, where it says; else uniform, or on a flow path in the middle."""
    objective = base.about.get("recipe", {}).get("objective", {})
    if times := objective.get("times"):
        return str(times)
    denoiser: Denoiser = base.denoiser
    return "logit_normal()" if getattr(denoiser.path, "card", {}).get("name") == "flow" else "uniform()"
