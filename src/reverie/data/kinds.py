"""One control that hears several kinds of hints, any of them or none (Uni-ControlNet, Zhao et al., arXiv:2305.16322).

The hints of one picture are laid together in their channels, (B, 3 K, H, W). A kind that is not given is 0 everywhere, which no
picture of 8 bits is: its grey levels in [-1, 1] are the odd multiples of 1/255. (There each kind is heard at several scales; here
by one encoder, as of any other control.)
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from reverie.card import parse
from reverie.errors import UserError, nearest

CHANNELS = 3
"""Of each hint."""


def together(given: Mapping[str, Tensor], kinds: Sequence[str], name: str = "the control") -> Tensor:
    """(B, 3 K, H, W) of hints (B, 3, H, W) by kind, as "edges()"; of one size, and one at least."""
    rooms = {_plain(kind): k for k, kind in enumerate(kinds)}
    asked = {_plain(kind): hint for kind, hint in given.items()}
    if wrong := [kind for kind in asked if kind not in rooms]:
        raise UserError(f"{name} was not trained on {wrong[0]}().{nearest(wrong[0], rooms)} It hears {', '.join(kinds)}")
    if not asked:
        raise UserError(f"{name} hears {', '.join(kinds)}, and no picture is given: give one for a kind, or leave it out")
    if len(sizes := {tuple(hint.shape[2:]) for hint in asked.values()}) > 1:
        said = " and ".join(f"{w}x{h}" for h, w in sorted(sizes))
        raise UserError(f"the pictures for {name} have {said} pixels: give them in one size")
    some = next(iter(asked.values()))
    out = some.new_zeros(len(some), CHANNELS * len(kinds), *some.shape[2:])
    for kind, hint in asked.items():
        out[:, CHANNELS * rooms[kind] : CHANNELS * (rooms[kind] + 1)] = hint
    return out


def only(hints: Tensor, kept: Tensor) -> Tensor:
    """hints (B, 3 K, H, W) without the kinds that kept (B, K) bool leaves out."""
    return hints * kept.to(hints).repeat_interleave(CHANNELS, 1)[:, :, None, None]


def told(hints: Tensor) -> Tensor:
    """Which kinds of hints (B, 3 K, H, W) are given: (B, K) bool."""
    return torch.stack([part.flatten(1).any(1) for part in hints.split(CHANNELS, 1)], 1)


def _plain(kind: str) -> str:
    """What a kind is known by: two ways to draw edges are one kind."""
    return str(parse(kind)["name"])
