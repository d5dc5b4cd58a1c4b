"""An encoder that names what a picture shows: vectors of a word, from what an encoder of pictures says of it.

After Gal et al., "Encoder-based domain tuning for fast personalization of text-to-image models", arXiv:2302.12228 (E4T): what it
says is how the word differs from a known one of the domain, which it begins as.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.blocks import zeroed
from reverie.nets.image_prompt import ImagePromptConfig, heard, reader_of
from reverie.nets.precision import Linear


@dataclass(frozen=True, kw_only=True)
class WordEncoderConfig:
    """The shape of a `WordEncoder`.

    kind, embed, places, hidden, heads, depth, ratio: as of `ImagePromptConfig`; tokens: what a picture becomes on the way. widths:
    of the vectors of words, of each encoder of text. vectors: of a word.
    """

    kind: Literal["projection", "resampler", "places"] = "resampler"
    embed: int = 1024
    places: int = 0
    tokens: int = 8
    hidden: int = 256
    heads: int = 4
    depth: int = 2
    ratio: int = 2
    widths: tuple[int, ...]
    vectors: int = 1


class WordEncoder(nn.Module):
    """said (B, embed), or (B, L, embed) where it hears of places -> a word's vectors (B, vectors, width) for each encoder of text.

    first: (vectors, width) of each, which it says of any picture before it has learnt.
    """

    def __init__(self, config: WordEncoderConfig, first: tuple[Tensor, ...] = ()) -> None:
        super().__init__()
        self.config = c = config
        parts = {name: getattr(c, name) for name in ("kind", "embed", "places", "tokens", "hidden", "heads", "depth", "ratio")}
        self.shape = ImagePromptConfig(**parts, width=c.hidden, sites=())
        self.tokens = reader_of(self.shape)
        self.enter = Linear(c.tokens * c.hidden, c.hidden)
        made = [zeroed(Linear(c.hidden, c.vectors * width)) for width in c.widths]
        for layer, vectors in zip(made, first, strict=False):
            with torch.no_grad():
                layer.bias.copy_(vectors.flatten())
        self.out = nn.ModuleList(made)

    def forward(self, said: Tensor) -> tuple[Tensor, ...]:
        c = self.config
        h = F.silu(self.enter(self.tokens(heard(said, self.shape)).flatten(1)))
        return tuple(layer(h).unflatten(1, (c.vectors, -1)) for layer in self.out)
