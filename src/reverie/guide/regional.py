"""Prompts for regions of a picture, said by masks, in two ways that any net can be told in.

By attention (`attending`, `Regional`): the tokens of a prompt of the whole and those of the regions stand in one row. A place
of the picture looks at the tokens of the regions it lies in, and where it lies in none at those of the whole; with a ratio b it
is answered

    y = b Attention(q, whole) + (1 - b) Attention(q, its regions).                                                    (1)

Where picture and text look at each other (joint attention), the text of a region looks at itself and at the places of the region
alone. What the net hears as a vector is of the whole, and the picture looks at itself everywhere: regions are parts of one
picture.

By composition (`composing`): each region is drawn as a whole picture would be, and the estimates are put together
(arXiv:2302.08113),

    x_0 = w_0 c_0 + sum_r w_r c_r,   w_r = (1 - b) m_r / max(1, sum m),   w_0 = 1 - sum_r w_r,                        (2)

which costs an evaluation per region and works for nets without tokens, too. Masks that overlap are averaged.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.denoiser import Cond, Model
from reverie.errors import UserError, number
from reverie.nets import looking
from reverie.nets.looking import Attend, Site
from reverie.process.path import Path


def checked(masks: Tensor, regions: int, rows: int) -> Tensor:
    """masks (R, H, W) or (B, R, H, W) in [0, 1] as (B, R, H, W); UserError where they are no regions."""
    masks = masks.expand(rows, *masks.shape[-3:])
    if masks.shape[1] != regions:
        raise UserError(f"{regions} prompts of regions and {masks.shape[1]} masks: give one mask for each prompt")
    if not bool(((masks >= 0) & (masks <= 1)).all()):
        raise UserError("a mask of a region has values outside 0 to 1, where 1 is the region")
    for r in range(regions):
        if not bool(masks[:, r].flatten(1).any(1).all()):
            raise UserError(f"the mask of region {r + 1} is empty: leave the region out, or paint where it is")
    return masks


def _ratio(ratio: float) -> float:
    number("the share of the whole picture's prompt in its regions", ratio)
    if not 0 <= ratio < 1:
        raise UserError(f"the share of the whole picture's prompt in its regions is {ratio}; it is at least 0 and less than 1")
    return float(ratio)


def composing(base: Cond, regions: Sequence[Cond], masks: Tensor, ratio: float = 0.0) -> Cond:
    """Equation (2) as a condition for `Composed`; base and regions may themselves have parts. masks: as of `checked`."""
    masks, ratio = checked(masks.cpu(), len(regions), base.batch).double(), _ratio(ratio)
    covered = (1 - ratio) * masks / masks.sum(1, keepdim=True).clamp(min=1)
    weights = torch.cat([1 - covered.sum(1, keepdim=True), covered], 1)  # (B, 1 + R, H, W)
    if ratio == 0:  # what is covered wholly is not left a rounding error of the base
        weights[:, 0] = weights[:, 0].masked_fill(weights[:, 0].abs() < 1e-9, 0)
    each = [(c.parts or (c.said,), c.shares) for c in (base, *regions)]
    steps = max(1 if shares is None else shares.shape[1] for _, shares in each)
    one = torch.ones(base.batch, 1, 1, dtype=torch.float64)
    shares = [(one if s is None else s).expand(-1, steps, -1) for _, s in each]
    places = [weights[:, r : r + 1].expand(-1, len(parts), -1, -1) for r, (parts, _) in enumerate(each)]
    made = tuple(part for parts, _ in each for part in parts)
    return replace(base, parts=made, shares=torch.cat(shares, 2), places=torch.cat(places, 1))


def attending(base: Cond, regions: Sequence[Cond], masks: Tensor) -> Cond:
    """All prompts in one row of tokens, for `Regional`. masks: as of `checked`."""
    every = [base, *regions]
    masks = checked(masks, len(regions), base.batch)
    if any(c.tokens is None for c in every):
        raise UserError("this model hears a prompt as one vector, which no place can look at alone: use regions by composition")
    if any(c.parts is not None for c in every):
        raise UserError("prompts of regions by attention cannot change on the way or hold AND: use regions by composition")
    if len({c.mask is None for c in every}) > 1:
        every = [c.padded(c.tokens.shape[1]) for c in every if c.tokens is not None]
    tokens = [c.tokens for c in every if c.tokens is not None]
    seen = [c.mask for c in every if c.mask is not None]
    owners = torch.cat([torch.full(row.shape[:2], r) for r, row in enumerate(tokens)], 1)
    return replace(base, tokens=torch.cat(tokens, 1), mask=torch.cat(seen, 1) if seen else None, regions=masks, owners=owners)


@dataclass(frozen=True)
class Regional:
    """A model whose attentions heed `regions` and `owners`, by equation (1) with the ratio b; without them the model itself."""

    model: Model
    ratio: float = 0.0

    def __post_init__(self) -> None:
        _ratio(self.ratio)

    @property
    def path(self) -> Path:
        return self.model.path

    def __call__(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        with self._looking(x, cond):
            return self.model(x, t, _plain(cond))

    def with_variance(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> tuple[Tensor, Tensor]:
        model: Any = self.model
        with self._looking(x, cond):
            mean, share = model.with_variance(x, t, _plain(cond))
        return mean, share

    def _looking(self, x: Tensor, cond: Cond | None) -> AbstractContextManager[Any]:
        if cond is None or cond.regions is None or cond.owners is None:
            return nullcontext()
        size = (int(x.shape[-2]), int(x.shape[-1]))
        return looking.looking(Look(cond.regions.to(x.device), cond.owners.to(x.device), size, self.ratio))


def _plain(cond: Cond | None) -> Cond | None:
    return None if cond is None else replace(cond, regions=None, owners=None)


@dataclass(frozen=True)
class Look:
    """What changes the attentions of one evaluation. size: height and width of x."""

    regions: Tensor
    owners: Tensor
    size: tuple[int, int]
    ratio: float
    known: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, site: Site, attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        text = self.owners.shape[1]
        if site.kind == "cross" and k.shape[-2] == text:
            near = attend(q, k, v, _both(self.tokens_of(q.shape[-2]), mask))
            return self._mixed(near, lambda: attend(q, k, v, _both(self._whole(), mask)))
        if site.kind == "joint" and site.text == text:
            y = attend(q, k, v, _both(self._joint(q.shape[-2] - text), mask))
            own, places = q[:, :, text:], q.shape[-2] - text
            seen = F.pad(self._whole(), (0, places), value=True)
            near = self._mixed(y[:, :, text:], lambda: attend(own, k, v, _both(seen, mask)))
            return torch.cat((y[:, :, :text], near), 2)
        return attend(q, k, v, mask)

    def _mixed(self, near: Tensor, far: Any) -> Tensor:
        return near if self.ratio == 0 else torch.lerp(near, far(), self.ratio)

    def _whole(self) -> Tensor:
        """Tokens of the whole picture's prompt, (B, 1, L)."""
        return (self.owners == 0)[:, None]

    def belongs(self, places: int) -> Tensor:
        """Which places of a site lie in which regions, (B, R, places): those half covered, and of a small region its best."""
        if places not in self.known:
            share = F.interpolate(self.regions.float(), sides(places, self.size), mode="area").flatten(2)
            self.known[places] = (share >= share.amax(2, keepdim=True).clamp(max=0.5)) & (share > 0)
        return self.known[places]

    def _by_owner(self, places: Tensor, whole: Tensor) -> Tensor:
        """places (B, R, N) of the regions, and those of the whole (B, N), as those of each token (B, L, N)."""
        every = torch.cat((whole[:, None], places), 1)
        return every.gather(1, self.owners[..., None].expand(-1, -1, every.shape[2]))

    def tokens_of(self, places: int) -> Tensor:
        """Which tokens each place looks at, (B, places, L)."""
        belongs = self.belongs(places)
        return self._by_owner(belongs, ~belongs.any(1)).mT

    def _joint(self, places: int) -> Tensor:
        """Who looks at whom where text and picture are one row, (B, L + places, L + places)."""
        belongs, everywhere = self.belongs(places), self.owners.new_ones(len(self.owners), places, dtype=torch.bool)
        same = self.owners[:, :, None] == self.owners[:, None]
        text = torch.cat((same, self._by_owner(belongs, everywhere)), 2)
        picture = F.pad(self.tokens_of(places), (0, places), value=True)
        return torch.cat((text, picture), 1)


def _both(table: Tensor, mask: Tensor | None) -> Tensor:
    """table (B, N, M) for all heads, and the net's own mask."""
    return table[:, None] if mask is None else table[:, None] & mask


def sides(places: int, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the places of a site, in a picture of this height and width: those nearest to its shape."""
    whole = [(rows, places // rows) for rows in range(1, places + 1) if places % rows == 0]
    return min(whole, key=lambda pair: abs(pair[0] * size[1] - pair[1] * size[0]))
