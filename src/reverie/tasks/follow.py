"""The same picture under other words: what the words do not change stays where it is (prompt-to-prompt, arXiv:2208.01626).

The picture of the first words is drawn beside those that are asked for, from the same noise, and their attention follows its
attention. With `Invert` before it, the first words' picture is one that exists.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from reverie.card import Card
from reverie.denoiser import Cond
from reverie.encode.pieces import pieces, places
from reverie.errors import UserError, number
from reverie.guide.following import PLAIN, SOURCE, Following, aligned
from reverie.tasks.start import PAIRED, Start, heard

SHARED = ("hints", "heeded", "images", "concat")
"""What both pictures are shown."""


@dataclass(frozen=True)
class Follow:
    """The task of drawing what is asked as the picture of `said` is drawn. cross, own: shares of the way, as of `Following`.

    own: None = 0.4, and 0.8 of nets that hear words as one vector, where the picture's attention to itself alone follows.
    said: None = the prompt itself, so that stress alone changes the picture. stress: {word of the prompt: weight} of attention, for
    the whole way.
    """

    turn: ClassVar[int] = PAIRED
    said: Any = None
    cross: float = 0.8
    own: float | None = None
    stress: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for word, weight in self.stress.items():
            number(f"the stress of '{word}'", weight)
            if not -100 <= weight <= 100:
                raise UserError(f"the stress of '{word}' is {weight}; it lies between -100 and 100")
        Following(None, torch.zeros(2), self.cross, self.own or 0.0)  # type: ignore[arg-type]

    @property
    def card(self) -> Card:
        return {"name": "follow", "said": self.said, "cross": self.cross, "own": self.own, "stress": dict(self.stress)}

    @property
    def words(self) -> tuple[Any, ...]:
        """What is said of the picture that is followed."""
        return () if self.said is None else (self.said,)

    def __call__(self, start: Start) -> Start:
        if start.cond is None or start.system.prompt_encoder is None:
            raise UserError(f"{start.system.name} hears no words, so there are none to exchange")
        if start.settings.strict:
            raise UserError("a picture that follows another is drawn together with it: leave out strict")
        count = len(start.said)
        followed = start.said if self.said is None else (start.settings.said(self.said),) * count
        source = heard(start.system, start.settings, followed, start.way)["cond"]
        if start.cond.parts or source.parts or start.cond.regions is not None:
            raise UserError(
                "a picture that follows another has one prompt, for all of it and all of the way: leave out regions, [a:b:0.5], AND"
            )
        source = replace(source, **{room: getattr(start.cond, room) for room in SHARED})
        both = Cond.cat([source, start.cond])
        echo, stress = self._rows(start, _width(both))
        both = replace(
            both, echo=torch.cat([torch.full_like(echo, SOURCE), echo]), stress=torch.cat([torch.ones_like(stress), stress])
        )
        negative = start.negative
        if negative is not None:
            negative = Cond.cat([negative, negative])
            shape = (2 * count, _width(negative))
            negative = replace(negative, echo=torch.full(shape, PLAIN), stress=torch.ones(shape))
        own: dict[str, Any] = {"cond": both, "negative": negative, "said": followed + start.said}
        own |= {"noise": torch.cat([start.noise] * 2), "rng": replace(start.rng, seeds=start.rng.seeds * 2)}
        start = replace(start, **own, refiner=_doubled(start, followed), finish=(lambda made: made[count:], *start.finish))
        share = (0.8 if both.tokens is None else 0.4) if self.own is None else self.own
        return start.look(lambda model, grid: Following(model, grid, self.cross, share))

    def _rows(self, start: Start, width: int) -> tuple[Tensor, Tensor]:
        """`Cond.echo` and `Cond.stress` (B, width) of what is asked."""
        encoder, every = start.system.prompt_encoder, []
        if start.cond is not None and start.cond.tokens is None:  # one vector of all words
            if self.stress:
                raise UserError(f"{start.system.name} hears its prompt as one vector, of which no word can be stressed")
            return torch.full((len(start.said), width), -1), torch.ones(len(start.said), width)
        for said in start.said:
            echo, stress = torch.full((width,), -1), torch.ones(width)
            theirs = pieces(encoder, said if self.said is None else self.said)
            for j, i in enumerate(aligned(theirs, pieces(encoder, said))):
                echo[j] = i
            for word, weight in self.stress.items():
                if not (found := places(encoder, word, said)):
                    raise UserError(f"'{word}' is not in the prompt '{str(said)[:60]}': stress a word that is")
                stress[found] = float(weight)
            every.append((echo, stress))
        return torch.stack([echo for echo, _ in every]), torch.stack([stress for _, stress in every])


def _doubled(start: Start, followed: Sequence[Any]) -> Start | None:
    """The refiner's half, which draws both pictures, and lets neither follow."""
    if (second := start.refiner) is None or second.cond is None:
        return second
    source = heard(second.system, second.settings, followed, second.way)["cond"]
    negative = None if second.negative is None else Cond.cat([second.negative] * 2)
    return replace(second, cond=Cond.cat([source, second.cond]), negative=negative, said=(*followed, *second.said))


def stressed(asked: Sequence[str]) -> dict[str, float]:
    """{word: weight} of "word=weight", as they are typed; UserError where one is not written so."""
    found = {}
    for text in asked:
        word, _, weight = text.rpartition("=")
        try:
            found[word.strip()] = float(weight)
        except ValueError:
            word = ""
        if not word.strip():
            raise UserError(f"'{text}' is no word with a weight: write it as glasses=3")
    Follow(stress=found)
    return found


def _width(cond: Cond) -> int:
    """Rows of tokens; one where there are none."""
    return 1 if cond.tokens is None else int(cond.tokens.shape[1])
