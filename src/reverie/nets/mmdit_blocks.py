"""The blocks of the multimodal diffusion transformer; `mmdit` says what they make together.

Everything here is of rows (B, L, D). The conditioning c (B, D), already activated, enters as shifts s, scales m and gates g.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.blocks import attend
from reverie.nets.dit import modulate, plain_norm
from reverie.nets.precision import Linear, exact

Projected = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values (B, heads, L, E)."""


class RMSNorm(nn.Module):
    """w x / sqrt(mean x^2 + eps) over the last axis (Zhang & Sennrich, arXiv:1910.07467), in the type of x."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), self.eps)


def rotations(rows: int, columns: int, text: int, axes: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Cosines and sines of equation (3) of `mmdit`: (2, text + rows * columns, sum(axes) / 2), float32, the text first.

    axes: how many entries of a head turn with each coordinate. The first coordinate is 0 everywhere (editing models count
    pictures with it), the others are row and column. The text lies at 0: it is not turned.
    """
    at = exact(device)
    place = torch.zeros(text + rows * columns, 3, dtype=torch.float64, device=at)
    place[text:, 1] = torch.arange(rows, device=at).repeat_interleave(columns)
    place[text:, 2] = torch.arange(columns, device=at).repeat(rows)
    pairs = [torch.arange(0, axis, 2, dtype=torch.float64, device=at) / axis for axis in axes]
    angle = torch.cat([place[:, i : i + 1] * 10000.0**-power for i, power in enumerate(pairs)], 1)
    return torch.stack((angle.cos(), angle.sin())).float().to(device)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Each pair of neighbouring entries of x (B, heads, L, E) turned by its angle; turn (2, L, E / 2) as of `rotations`."""
    cos, sin = turn
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x.dtype)


class Heads(nn.Module):
    """x (B, L, D) -> its queries, keys and values, and by `out` back again; rms: queries and keys are normalised."""

    def __init__(self, width: int, heads: int, rms: bool, *, back: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = Linear(width, width), Linear(width, width), Linear(width, width)
        self.norm_q = RMSNorm(width // heads) if rms else nn.Identity()
        self.norm_k = RMSNorm(width // heads) if rms else nn.Identity()
        self.out = Linear(width, width) if back else nn.Identity()

    def forward(self, x: Tensor, turn: Tensor | None = None) -> Projected:
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (self.q(x), self.k(x), self.v(x)))
        q, k = self.norm_q(q), self.norm_k(k)
        return (q, k, v) if turn is None else (rotate(q, turn), rotate(k, turn), v)


def together(parts: Sequence[Projected], seen: Tensor | None = None, text: int = 0) -> Tensor:
    """Attention over the rows of all parts, one after the other: (B, L, D); seen (B, 1, 1, L), True = may be looked at.

    text: how many of the first rows are of the text.
    """
    q, k, v = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True), [2, 2, 2])
    return attend(q, k, v, seen, "joint" if text else "self", text).transpose(1, 2).flatten(2)


class Stream(nn.Module):
    """What the picture, or the text, has of its own in a joint block: equation (1) of `mmdit` but for the attention.

    dual: a second attention, of this stream to itself (Stable Diffusion 3.5 medium); it takes s3, m3, g3.
    """

    def __init__(self, width: int, heads: int, rms: bool, gelu: str, *, dual: bool = False) -> None:
        super().__init__()
        self.gelu, self.parts = gelu, 9 if dual else 6
        self.adapt = nn.Linear(width, self.parts * width)
        self.heads = Heads(width, heads, rms)
        self.dual = Heads(width, heads, rms) if dual else None
        self.up, self.down = Linear(width, 4 * width), Linear(4 * width, width)

    def enter(self, x: Tensor, c: Tensor, turn: Tensor | None = None) -> tuple[Projected, tuple[Tensor, ...]]:
        """What takes part in the attention, and the modulations (B, 1, D) that `leave` needs."""
        told = self.adapt(c)[:, None].chunk(self.parts, -1)
        return self.heads(modulate(plain_norm(x), *told[:2]), turn), told

    def leave(self, x: Tensor, y: Tensor, told: tuple[Tensor, ...], turn: Tensor | None = None) -> Tensor:
        """x with y, the answer of the attention, and the feed-forward."""
        _, _, g1, s2, m2, g2, *more = told
        h = torch.addcmul(x, g1, self.heads.out(y))
        if self.dual is not None:
            s3, m3, g3 = more
            h = torch.addcmul(h, g3, self.dual.out(together([self.dual(modulate(plain_norm(x), s3, m3), turn)])))
        hidden = F.gelu(self.up(modulate(plain_norm(h), s2, m2)), approximate=self.gelu)
        return torch.addcmul(h, g2, self.down(hidden))


class Adapted(nn.Module):
    """(1 + m) norm(x) + s; s and m are layers of their own, since their order in a common one differs between publishers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shift, self.scale = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return modulate(plain_norm(x), self.shift(c)[:, None], self.scale(c)[:, None])


class Seen(nn.Module):
    """The text in the last block, where it is looked at for the last time and need not come out."""

    def __init__(self, width: int, heads: int, rms: bool) -> None:
        super().__init__()
        self.adapt = Adapted(width)
        self.heads = Heads(width, heads, rms, back=False)

    def enter(self, x: Tensor, c: Tensor) -> tuple[Projected, tuple[Tensor, ...]]:
        return self.heads(self.adapt(x, c)), ()


class JointBlock(nn.Module):
    """Two streams with one attention: picture x (B, N, D) and text (B, L, D) -> the same; equation (1) of `mmdit`."""

    def __init__(self, width: int, heads: int, rms: bool, gelu: str, *, dual: bool = False, last: bool = False) -> None:
        super().__init__()
        self.image = Stream(width, heads, rms, gelu, dual=dual)
        self.text = Seen(width, heads, rms) if last else Stream(width, heads, rms, gelu)

    def forward(self, x: Tensor, text: Tensor, c: Tensor, seen: Tensor | None, turn: Tensor | None) -> tuple[Tensor, Tensor]:
        n = text.shape[1]
        turn = None if turn is None else turn[:, n:]
        (a, told), (b, said) = self.image.enter(x, c, turn), self.text.enter(text, c)
        y = together((b, a), seen, n)  # (B, L + N, D)
        # rows that do not lie in one piece get their bias after rounding, and only those of a single sample always do
        x = self.image.leave(x, y[:, n:].contiguous(), told, turn)
        return x, self.text.leave(text, y[:, :n].contiguous(), said) if isinstance(self.text, Stream) else text


class PlainBlock(nn.Module):
    """The picture's stream of a joint block alone, for a net that reads no text."""

    def __init__(self, width: int, heads: int, rms: bool, gelu: str, *, dual: bool = False) -> None:
        super().__init__()
        self.image = Stream(width, heads, rms, gelu, dual=dual)

    def forward(self, x: Tensor, text: Tensor, c: Tensor, seen: Tensor | None, turn: Tensor | None) -> tuple[Tensor, Tensor]:
        """The text, which has no rows, comes out as it is."""
        parts, told = self.image.enter(x, c, turn)
        return self.image.leave(x, together([parts]), told, turn), text


class SingleBlock(nn.Module):
    """Text and picture in one stream, attention and feed-forward side by side: equation (2) of `mmdit`."""

    def __init__(self, width: int, heads: int, rms: bool, gelu: str) -> None:
        super().__init__()
        self.gelu = gelu
        self.adapt = nn.Linear(width, 3 * width)
        self.heads = Heads(width, heads, rms, back=False)
        self.up, self.out = Linear(width, 4 * width), Linear(5 * width, width)

    def forward(self, x: Tensor, c: Tensor, seen: Tensor | None, turn: Tensor | None, text: int = 0) -> Tensor:
        """text: how many of the first rows of x (B, L, D) are of the text."""
        s, m, g = self.adapt(c)[:, None].chunk(3, -1)
        h = modulate(plain_norm(x), s, m)
        y = together([self.heads(h, turn)], seen, text)
        hidden = F.gelu(self.up(h), approximate=self.gelu)
        return torch.addcmul(x, g, self.out(torch.cat((y, hidden), -1)))
