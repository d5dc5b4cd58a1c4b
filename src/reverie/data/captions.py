"""What is said of a picture each time it is seen: its own caption, in another order, with less of it, in a template.

A caption is a row of tags, parted by commas. Each time, those behind the kept ones are put in a fresh order, or left out by chance;
what comes before and behind the caption, and the template around it, stay where they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reverie.errors import UserError

HOLE = "{}"
"""Where a caption goes in a template."""


@dataclass(frozen=True, kw_only=True)
class Saying:
    """How a caption is said.

    keep: so many tags stay in front, in their order; keep_mark: a text that parts those that stay from the others, in their place
    where a caption has it. drop_tags: the chance of each tag to be left out. template: the whole, the caption in place of {}.
    """

    shuffle: bool = False
    keep: int = 0
    keep_mark: str = ""
    separator: str = ","
    prefix: str = ""
    suffix: str = ""
    drop_tags: float = 0.0
    template: str = HOLE

    def __post_init__(self) -> None:
        if self.keep < 0:
            raise UserError(f"{self.keep} tags cannot be kept in front: give 0 or more")
        if not 0 <= self.drop_tags <= 1:
            raise UserError(f"tags are left out with a chance of {self.drop_tags}; it lies between 0 and 1")
        if not self.separator:
            raise UserError("the tags of a caption are parted by nothing: give a separator, as ','")

    @property
    def varies(self) -> bool:
        """It is another text each time."""
        return self.shuffle or self.drop_tags > 0

    def __call__(self, caption: str, rng: np.random.Generator) -> str:
        if self.varies or (self.keep_mark and self.keep_mark in caption):
            caption = self._varied(caption, rng)
        words = " ".join(part for part in (self.prefix, caption, self.suffix) if part)
        return self.template.replace(HOLE, words).strip(" ,")

    def _varied(self, caption: str, rng: np.random.Generator) -> str:
        if self.keep_mark and self.keep_mark in caption:
            front, _, rest = caption.partition(self.keep_mark)
            kept, tags = self._tags(front), self._tags(rest.replace(self.keep_mark, self.separator))
        else:
            every = self._tags(caption)
            kept, tags = every[: self.keep], every[self.keep :]
        if self.shuffle:
            tags = [tags[i] for i in rng.permutation(len(tags))]
        if self.drop_tags:
            tags = [tag for tag, chance in zip(tags, rng.random(len(tags)), strict=True) if chance >= self.drop_tags]
        return f"{self.separator.strip() or self.separator} ".join([*kept, *tags])

    def _tags(self, text: str) -> Sequence[str]:
        return [tag for part in text.split(self.separator) if (tag := part.strip())]
