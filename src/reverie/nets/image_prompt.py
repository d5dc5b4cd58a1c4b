"""IP-Adapter: a picture as a prompt, which each cross-attention of a net looks at beside its text.

Ye et al., "IP-Adapter: text compatible image prompt adapter for text-to-image diffusion models", arXiv:2308.06721. What an image
encoder says of a picture becomes M tokens c of the width of the text's, by a projection and a layer norm, or by a resampler, whose
M learnt queries look at all places of the picture (Alayrac et al., arXiv:2204.14198). With the queries q of each cross-attention,
keys and values of its own for these tokens, and a weight w,

    y = Attention(q, k, v) + w Attention(q, W_k c, W_v c).                                                          (1)

Nets that hear words by one vector z, and not by attention, are told z + w f(c, z), for a small net f: what words tell already it
need not say again.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.blocks import attend, expect, zeroed
from reverie.nets.looking import Kind
from reverie.nets.precision import Linear


@dataclass(frozen=True, kw_only=True)
class ImagePromptConfig:
    """The shape of an `ImagePromptNet`.

    kind: `projection` hears one vector of a picture; `resampler` what the encoder says of each place, by queries, and so does
    `places`, of so many, each in its place. embed: their width.
    tokens: M. width: of the tokens, as of the text's. sites: widths of the attentions that look, in the order in which the net
    comes to them. at: which these are; where there are none to text alone, those of the picture to text and itself, or to itself.
    vector: width of the vector by which the net hears words, where it hears them so; 0: not.
    hidden, heads, depth: of the resampler, whose heads are 64 wide, and its feed-forward `ratio` times as wide as it.
    """

    kind: Literal["projection", "resampler", "places"] = "projection"
    embed: int = 1024
    places: int = 0
    tokens: int = 4
    width: int = 768
    sites: tuple[int, ...]
    at: Kind = "cross"
    vector: int = 0
    hidden: int = 768
    heads: int = 12
    depth: int = 4
    ratio: int = 4


NARROW = 32
"""Numbers of each place, where all of them are heard at once."""


class Projection(nn.Module):
    """(B, embed) -> (B, tokens, width)."""

    def __init__(self, c: ImagePromptConfig) -> None:
        super().__init__()
        self.tokens = c.tokens
        self.linear, self.norm = nn.Linear(c.embed, c.tokens * c.width), nn.LayerNorm(c.width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.linear(x).unflatten(1, (self.tokens, -1)))
        return out


class ResamplerLayer(nn.Module):
    """The queries (B, M, hidden) look at the places (B, L, hidden) and at themselves."""

    def __init__(self, width: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.heads, inner = heads, heads * 64
        self.norm_x, self.norm_q = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v = (Linear(width, inner, bias=False) for _ in range(3))
        self.out = Linear(inner, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = Linear(width, ratio * width, bias=False), Linear(ratio * width, width, bias=False)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        queries = self.norm_q(h)
        both = torch.cat((self.norm_x(x), queries), 1)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (self.q(queries), self.k(both), self.v(both)))
        h = h + self.out(attend(q, k, v, None, "cross").transpose(1, 2).flatten(2))
        out: Tensor = h + self.down(F.gelu(self.up(self.norm(h))))
        return out


class Resampler(nn.Module):
    """(B, L, embed) -> (B, tokens, width)."""

    def __init__(self, c: ImagePromptConfig) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, c.tokens, c.hidden) / c.hidden**0.5)
        self.enter, self.leave = Linear(c.embed, c.hidden), Linear(c.hidden, c.width)
        self.norm = nn.LayerNorm(c.width)
        self.layers = nn.ModuleList(ResamplerLayer(c.hidden, c.heads, c.ratio) for _ in range(c.depth))

    def forward(self, x: Tensor) -> Tensor:
        h, places = self.queries.expand(len(x), -1, -1), self.enter(x)
        for layer in self.layers:
            h = layer(h, places)
        out: Tensor = self.norm(self.leave(h))
        return out


class Places(nn.Module):
    """(B, places, embed) -> (B, tokens, width): little of each place, and a projection of all. Where a thing is it need not learn
    from what is said of it, as queries must, which are long all alike."""

    def __init__(self, c: ImagePromptConfig) -> None:
        super().__init__()
        self.enter = Linear(c.embed, NARROW)
        self.all = Projection(replace(c, embed=c.places * NARROW))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.all(F.silu(self.enter(x)).flatten(1))
        return out


def reader_of(c: ImagePromptConfig) -> nn.Module:
    """What makes tokens (B, tokens, width) of what an encoder says."""
    made = {"projection": Projection, "resampler": Resampler, "places": Places}[c.kind](c)
    return made


def heard(said: Tensor, c: ImagePromptConfig) -> Tensor:
    """What an encoder said; ValueError unless it has the shape that `reader_of` reads."""
    expect("said", said, None, *((c.embed,) if c.kind == "projection" else (c.places or None, c.embed)))
    return said


class Word(nn.Module):
    """Tokens (B, M, width) and what words tell (B, vector) -> what is told beyond it, at first nothing."""

    def __init__(self, c: ImagePromptConfig) -> None:
        super().__init__()
        self.enter = Linear(c.tokens * c.width + c.vector, c.hidden)
        self.leave = zeroed(Linear(c.hidden, c.vector))  # of few inputs: one of many takes steps that are far too long

    def forward(self, tokens: Tensor, vector: Tensor) -> Tensor:
        out: Tensor = self.leave(F.silu(self.enter(torch.cat((tokens.flatten(1), vector), 1))))
        return out


class ImagePromptNet(nn.Module):
    """Equation (1): net(said) -> the tokens (B, M, width), and net.answer(site, q, tokens) what its second attention says.

    said (B, embed), or (B, L, embed) where it hears of places; net.word(tokens, z) is f(c, z), (B, vector), where there is a
    vector. The values and f start at zero: at first it says nothing.
    """

    def __init__(self, config: ImagePromptConfig) -> None:
        super().__init__()
        self.config = c = config
        self.tokens = reader_of(c)
        self.k = nn.ModuleList(Linear(c.width, width, bias=False) for width in c.sites)
        self.v = nn.ModuleList(zeroed(Linear(c.width, width, bias=False)) for width in c.sites)
        self.word = Word(c) if c.vector else None

    def forward(self, said: Tensor) -> Tensor:
        out: Tensor = self.tokens(heard(said, self.config))
        return out

    def answer(self, site: int, q: Tensor, tokens: Tensor) -> Tensor:
        """q (B, heads, L, E), tokens (B, M, width) -> (B, heads, L, E)."""
        k, v = (layer(tokens).unflatten(-1, (q.shape[1], -1)).transpose(1, 2) for layer in (self.k[site], self.v[site]))
        return F.scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype))
