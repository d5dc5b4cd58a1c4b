"""Encoders: what a person says -> `Cond`."""

from collections.abc import Sequence
from typing import Any, Protocol

from reverie.denoiser import Cond
from reverie.encode.classes import Classes as Classes
from reverie.encode.concepts import Concepts as Concepts
from reverie.encode.letters import Letters as Letters
from reverie.encode.pictures import Damaged as Damaged
from reverie.encode.pictures import Hidden as Hidden
from reverie.encode.pictures import Instructed as Instructed
from reverie.encode.words import Words as Words


class Encoder(Protocol):
    """One kind of prompt -> Cond with one row per prompt; the empty prompt is the null condition of guidance.

    An encoder that can weigh words (`syntax.Said`) has `weighs` = True; one whose words may hold signs of `syntax` has `knows`.
    size: height and width of the picture that is asked for, which some nets are told; the others' encoders do not look at it.
    """

    def prompts(self, prompts: Sequence[Any], size: tuple[int, int] | None = None) -> Cond: ...

    def empty(self, count: int) -> Cond: ...

    def notes(self, prompt: Any) -> list[str]:
        """What of the prompt has no effect, one line each."""
        ...


ENCODERS = (Classes, Words, Concepts, Letters, Damaged, Hidden, Instructed)
SAID = ("prompt", "class")
"""The kinds of things that are said in words, each with its encoder in `System.encoders`; the first there is is asked."""
SHOWN = ("damaged", "inpaint", "instruct")
"""The kinds of pictures that are shown to a net, each with what tells it: `encode/pictures.py`."""
