"""Sizes for pictures of many shapes: of near-equal area, in steps that a model can take.

With an area A, steps of d and sides between a and b, the sizes are                                              (1)

    { (h, w) : w in d {1, 2, ...}, h the largest multiple of d with h w <= A,  a <= h, w <= b }  and those turned by a quarter

and a picture goes where its shape is changed least: to the size that minimises |log(w / h) - log(W / H)|, which cuts the least off
a picture of W x H that is scaled to cover it.
"""

import math
from dataclasses import dataclass

from reverie.errors import UserError

Size = tuple[int, int]
"""Height and width."""
LARGEST = 16_384
"""Of a side, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """What sizes pictures are brought to. size: of all of them, or, in buckets, their area.

    least, most: of a side; 0 = half of the shorter side of `size`, twice the longer. step: sides are multiples of it. enlarge: a
    picture that is smaller is scaled up; where not, and in buckets, it keeps its size but for what is cut off to reach a multiple.
    """

    size: Size
    buckets: bool = False
    least: int = 0
    most: int = 0
    step: int = 1
    enlarge: bool = True

    def __post_init__(self) -> None:
        if (
            min(self.size) < 1
            or self.step < 1
            or min(self.least, self.most) < 0
            or max(*self.size, self.least, self.most) > LARGEST
        ):
            wanted = f"{self.size[1]}x{self.size[0]} in steps of {self.step}, sides between {self.least} and {self.most}"
            raise UserError(f"{wanted}: pictures have sides between 1 and {LARGEST}, in steps of 1 or more")
        if self.buckets and not self.sizes():
            a, b = self.sides
            raise UserError(
                f"no bucket of {self.size[1]}x{self.size[0]} pixels in all has sides between {a} and {b} in steps of {self.step}: "
                "give other sides or a smaller step"
            )

    @property
    def sides(self) -> tuple[int, int]:
        """The least and the most of a side."""
        return self.least or min(self.size) // 2, self.most or 2 * max(self.size)

    def sizes(self) -> list[Size]:
        """Eq. (1), from tall to wide; of one size, that size."""
        if not self.buckets:
            return [self.size]
        (a, b), d = self.sides, self.step
        area, out = self.size[0] * self.size[1], set()
        for w in range(d * max(1, math.ceil(a / d)), b + 1, d):
            h = min(area // w, b) // d * d
            if h >= max(a, d):
                out |= {(h, w), (w, h)}
        return sorted(out, key=lambda s: (s[1] / s[0], s))

    def of(self, height: int, width: int) -> Size:
        """The size of a picture. UserError where it is too small to be left as it is."""
        if not self.buckets:
            return self.size
        if not self.enlarge:
            return self._own(height, width)
        shape = math.log(width / height)
        return min(self.sizes(), key=lambda s: (abs(math.log(s[1] / s[0]) - shape), -s[0] * s[1], s))

    def _own(self, height: int, width: int) -> Size:
        """The picture's own size, no larger than the area, in steps; `least` and `most` do not matter."""
        scale = min(1.0, math.sqrt(self.size[0] * self.size[1] / (height * width)))
        tall, wide = (int(side * scale + 1e-6) // self.step * self.step for side in (height, width))
        if not min(tall, wide):
            raise UserError(f"{width}x{height} is too small where pictures are not enlarged: {self.step}x{self.step} is the least")
        return tall, wide
