"""How a model is opened, and where its nets rest and compute."""

import os
from dataclasses import dataclass, fields
from typing import Literal, get_args

import torch

from reverie.errors import UserError, nearest
from reverie.nets.precision import quick_dtype

WORDS: dict[type, str] = {bool: "true or false", str: "text", int: "a whole number"}
TYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How a model is opened, and where its nets rest and compute."""

    partial: bool = False
    """Of a file of others that is not whole, use what fits; what is missing is zero."""
    allow_pickle: bool = False
    """Read the tensors of a pickle, in a process of its own, without network where the system grants that."""
    parts: str = ""
    """A folder in diffusers' layout with what a publisher's single file lacks."""
    device: str = "auto"
    """auto = the GPU where there is one; or cpu, cuda, cuda:1, mps."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What the insides of the nets are computed in; auto = bfloat16 where it is quick."""
    offload: Literal["none", "parts", "blocks"] = "none"
    """To save memory, weights rest in their files and come for use only: a part at a time, or a block of a net at a time."""
    compile: Literal["auto", "yes", "no"] = "auto"
    """Compile the blocks of the net, which are alike, so that it is soon done; auto = on a GPU, where nothing rests."""
    tile: int = 0
    """Side in pixels of the tiles that larger pictures are decoded in, which saves memory; 0 = whole."""

    def check(self) -> "Opening":
        """The same; UserError where a setting is none of its kind, before anything is loaded."""
        for f in fields(self):
            value, kind = getattr(self, f.name), type(f.default)
            if type(value) is not kind:
                raise UserError(f"{f.name} is {str(value)[:60]!r} ({type(value).__name__}); it must be {WORDS[kind]}")
            if (known := get_args(f.type)) and value not in known:
                raise UserError(f"{f.name} is '{value}'.{nearest(str(value), known)}")
        if self.tile < 0:
            raise UserError(f"tile is {self.tile}; it is the side of a tile in pixels, or 0 for none")
        if self.parts and not os.path.isfile(os.path.join(self.parts, "model_index.json")):
            raise UserError(f"parts is '{self.parts}', which is no folder in diffusers' layout: it holds no model_index.json")
        _ = self.place
        return self

    @property
    def place(self) -> torch.device:
        """Where the nets compute; UserError where that is no device of this machine."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
        try:
            torch.empty(0, device=self.device)
            return torch.device(self.device)
        except (RuntimeError, AssertionError) as error:
            here = ", ".join(["auto", "cpu", *(k for k in ("cuda", "mps") if getattr(torch, k).is_available())])
            raise UserError(f"device is '{self.device}', which cannot be used here ({_why(error)}): take one of {here}") from None

    @property
    def inside(self) -> torch.dtype | None:
        """The type of the insides of the nets; None = float32."""
        if self.precision != "auto":
            return TYPES[self.precision]
        return torch.bfloat16 if self.place.type == "cuda" else quick_dtype() if self.place.type == "cpu" else None

    @property
    def compiles(self) -> bool:
        """Whether blocks are compiled."""
        return self.compile == "yes" or (self.compile == "auto" and self.place.type == "cuda" and self.offload == "none")


def _why(error: Exception) -> str:
    """Without the list of all devices that PyTorch was ever written for."""
    said = str(error).splitlines()[0]
    return "there is no such kind of device" if said.startswith("Expected one of") else said


USUAL = Opening()
LEARNING = Opening(precision="float32")
"""For what learns from a model: whole weights, which products in bfloat16 cast at each call, so that no step is rounded away."""
