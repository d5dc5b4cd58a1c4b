"""An encoder that names what one picture shows (E4T, arXiv:2302.12228): a model of ours stays, and a net learns to say the word.

reverie train avatars-subject --out runs/avatars-subject
reverie adapt encoder --begin runs/avatars-subject --data face --word sks
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.errors import UserError
from reverie.nets.word_encoder import WordEncoder, WordEncoderConfig
from reverie.systems.control.image_prompt import check_eye, seeing
from reverie.systems.control.kept import eye, load_control
from reverie.systems.control.recipe import TRAINING
from reverie.systems.control.seeing import Seeing
from reverie.systems.embeddings import Embedding, readers
from reverie.systems.system import System
from reverie.train.jobs import to_signal
from reverie.train.steering import Naming, Steering


@dataclass(frozen=True, kw_only=True)
class WordEncoderRecipe(Seeing):
    """What says a word of a model of ours for what a picture shows."""

    drop_pictures: float = 0.0
    vectors: int = 1
    """Of the word."""
    initial: str = ""
    """Known words, as which the word begins; '' = the middle of all words."""

    def made(self, base: System) -> WordEncoder:
        """One that says the same of each picture."""
        known = readers(base.prompt_encoder)
        if not known:
            raise UserError(f"{base.name} has no encoder that could learn a word")
        if self.vectors < 1:
            raise UserError(f"--vectors is {self.vectors}; a word has 1 or more")
        first = tuple(initial(reader, self.initial, self.vectors) for reader in known.values())
        widths = tuple(vectors.shape[1] for vectors in first)
        return WordEncoder(WordEncoderConfig(**self.shape(), widths=widths, vectors=self.vectors), first)

    def job(self, net: Any, base: System) -> Callable[..., Steering]:
        """What it says is a word of the prompt."""
        known = tuple(readers(base.prompt_encoder).values())
        return partial(Naming, base.denoiser, learnt=net, readers=known, reading=self.read(base))


def initial(reader: Any, text: str, count: int) -> Tensor:
    """(count, width): of the known words in a text, again and again where they are fewer; UserError where there are none."""
    known: Tensor = reader.initial(text)
    if not len(known):
        raise UserError(f"--initial '{text}' holds no word that this model knows")
    return known[torch.arange(count) % len(known)]


@torch.no_grad()
def named(path: str | Path, base: System, pictures: Sequence[np.ndarray], word: str) -> Embedding:
    """A word for what pictures uint8 (3, H, W) show: the mean of what a trained encoder says of each.

    path: a run or a file. UserError where it is none, or one of another model.
    """
    place = Path(path).expanduser()
    place = place / "model.safetensors" if place.is_dir() else place
    net = load_control(place, base)
    if not isinstance(net, WordEncoder):
        raise UserError(f"{path} says no words: name what `reverie train avatars-subject` wrote")
    known, widths = readers(base.prompt_encoder), net.config.widths
    if tuple(reader.learnt().width for reader in known.values()) != widths:
        raise UserError(f"{path} says words {widths} wide, and those of {base.name} are others: name the model it was trained on")
    see, places = seeing(eye(place), place.parent / "image_encoder", str(path)), net.config.kind != "projection"
    check_eye(see, net.config, str(path), place.parent / "image_encoder")
    each = [net.float()(see.said(to_signal(picture[None]), places)) for picture in pictures]
    return Embedding(word, {part: torch.cat([said[i] for said in each]).mean(0) for i, part in enumerate(known)})


SUBJECT = WordEncoderRecipe(
    name="avatars-subject",
    about="a word of reverie-avatars for what one picture shows",
    source="avatars",
    times="log_normal(mean=0.0, deviation=1.6)",
    training=replace(TRAINING, steps=3000),
)
