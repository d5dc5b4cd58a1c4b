"""A map of pictures taken tile by tile, so that its memory does not grow with the picture.

Neighbouring tiles overlap. In the overlap the answer passes from one to the other in a straight line,

    y(p) = sum_i w_i(p) y_i(p) / sum_i w_i(p),                                                                    (1)

w_i rising from 0 at an inner edge of tile i to 1 where the overlap ends, and being 1 at an edge of the picture. What a map reads
from farther than a tile reaches, a norm's statistics for one, differs from tile to tile, and (1) hides the seams of that.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]


def tiled(f: Map, x: Tensor, tile: int, overlap: int, *, takes: int = 1, gives: int = 1) -> Tensor:
    """f of x (B, C, H, W), which makes `gives` entries of every `takes`, each way: eq. (1).

    tile, overlap: counted in places of `takes` entries. A picture no larger than a tile is given to f as it is.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"tiles of {tile} cannot overlap by {overlap}: by 0 or more, and less than a tile")
    height, width = (n // takes for n in x.shape[2:])
    if max(height, width) <= tile:
        return f(x)
    out: Tensor | None = None
    for top, down in shares(height, tile, overlap, gives):
        for left, across in shares(width, tile, overlap, gives):
            rows, columns = (slice(b * takes, (b + tile) * takes) for b in (top, left))
            y = f(x[:, :, rows, columns])
            out = y.new_zeros(*y.shape[:2], height * gives, width * gives) if out is None else out
            place = out[:, :, top * gives : top * gives + len(down), left * gives : left * gives + len(across)]
            place.add_(y * down.to(y)[:, None] * across.to(y))
    assert out is not None
    return out


def shares(length: int, tile: int, overlap: int, gives: int) -> list[tuple[int, Tensor]]:
    """Along one side of `length` places: where each tile begins, and its part of the sum at each of its entries, eq. (1)."""
    if length <= tile:
        return [(0, torch.ones(length * gives))]
    count = math.ceil((length - overlap) / (tile - overlap))
    begins = [round(i * (length - tile) / (count - 1)) for i in range(count)]
    total, weights = torch.zeros(length * gives), []
    for b in begins:
        k = torch.arange(tile * gives) + 0.5
        rise = k / max(1, overlap * gives)
        w = torch.ones(tile * gives)
        w = torch.minimum(w, rise) if b > 0 else w
        w = torch.minimum(w, rise.flip(0)) if b + tile < length else w
        total[b * gives : (b + tile) * gives] += w
        weights.append(w)
    return [(b, w / total[b * gives : (b + tile) * gives]) for b, w in zip(begins, weights, strict=True)]
