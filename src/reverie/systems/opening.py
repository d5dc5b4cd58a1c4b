"""How a model is opened, and where its nets rest and compute."""

from dataclasses import dataclass
from typing import Literal

import torch

from reverie.errors import UserError
from reverie.nets.precision import quick_dtype

TYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How a model is opened, and where its nets rest and compute."""

    partial: bool = False
    """Of a file of others that is not whole, use what fits; what is missing is zero."""
    allow_pickle: bool = False
    """Read the tensors of a pickle, in a process of its own without network."""
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

    @property
    def place(self) -> torch.device:
        """Where the nets compute; UserError where that is no device of this machine."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
        try:
            torch.empty(0, device=self.device)
            return torch.device(self.device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"--device is '{self.device}', which cannot be used here ({str(error).splitlines()[0]})") from None

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


USUAL = Opening()
