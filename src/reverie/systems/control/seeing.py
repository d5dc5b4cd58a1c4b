"""What is trained by what an encoder says of each picture: image prompts, and words for what a picture shows."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from reverie.card import card_of, parse, rebuild
from reverie.errors import UserError
from reverie.systems.control.beside import Beside
from reverie.systems.control.image_prompt import EYES, vector_of
from reverie.systems.system import System
from reverie.train.jobs import View, to_signal


@dataclass(frozen=True, kw_only=True)
class Seeing(Beside):
    """A net that hears what an encoder of pictures says."""

    eye: str = "lite0()"
    """The encoder: lite0(), of the extra `metrics`, or clip(folder='...') from a folder of transformers' layout."""
    kind: Literal["projection", "resampler", "places"] = "places"
    """Whether it hears one vector of a picture, or of each place: by learnt queries, or each in its place, which learns sooner."""
    tokens: int = 8
    """What a picture becomes."""
    hidden: int = 256
    """Width of what reads the places."""
    depth: int = 2
    """And its layers."""
    drop_pictures: float = 0.1
    """Share of pictures that are not shown, for the other half of guidance."""
    reading: float = 0.1
    """Of a model that hears words as one vector, the weight of how far what a picture tells by it is from what its caption does."""

    def check(self) -> None:
        """UserError for shares that are none, and an encoder that there is not."""
        if not 0 <= self.drop_pictures < 1:
            raise UserError(f"--drop-pictures is {self.drop_pictures}; it is a share, at least 0 and less than 1")
        if not 0 <= self.reading < float("inf"):
            raise UserError(f"--reading is {self.reading}; it is a weight, 0 or more")
        if self.tokens < 1 or self.depth < 1 or self.hidden < 1:
            raise UserError(f"--tokens, --depth and --hidden are {self.tokens}, {self.depth}, {self.hidden}; each is 1 or more")

    def shape(self) -> dict[str, Any]:
        """Of what reads the encoder's sayings."""
        eye, whole = self.seeing(), self.kind == "projection"
        heads, embed = max(1, self.hidden // 64), eye.width(not whole)
        places = {"places": eye.unsaid(torch.zeros(1, 3, 16, 16), True).shape[1]} if self.kind == "places" else {}
        named = places | {"kind": self.kind, "tokens": self.tokens, "hidden": self.hidden, "depth": self.depth}
        return named | {"embed": embed, "heads": heads, "ratio": 2}

    def read(self, base: System) -> float:
        """The weight of reading, of this model: 0 where it does not hear words so."""
        return self.reading if vector_of(base) else 0.0

    def view(self, images: np.ndarray) -> View:
        """What the encoder says of them, asked once of each; of some that it says nothing."""
        eye, places = self.seeing(), self.kind != "projection"
        nothing = eye.unsaid(torch.zeros(1, 3, 16, 16), places)
        known = torch.zeros(len(images), *nothing.shape[1:], dtype=torch.float16)
        there = np.zeros(len(images), bool)

        def look(index: np.ndarray, rng: np.random.Generator) -> Tensor:
            new = np.unique(index[~there[index]])
            if len(new):
                known[new] = eye.said(to_signal(images[new]).expand(-1, 3, -1, -1), places).half()
                there[new] = True
            seen = torch.from_numpy(rng.random(len(index)) >= self.drop_pictures)
            return torch.where(seen.view(-1, *[1] * (known.ndim - 1)), known[index].float(), nothing)

        return look

    def shown(self) -> dict[str, Any]:
        """The encoder, without the place where it lies."""
        card = card_of(self.seeing())
        return {"eye": {k: v for k, v in card.items() if k != "folder"}}

    def seeing(self) -> Any:
        """The encoder."""
        return rebuild(parse(self.eye), EYES, "eye")
