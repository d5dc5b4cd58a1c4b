"""`reverie generate "a smiling woman with red hair" --style micah --count 4`: pictures, with everything needed to repeat them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from reverie.cli.drawing import Drawing, draw, read


@dataclass(frozen=True)
class Generate(Drawing):
    """Pictures from words. Image k of a call has seed `seed + k`; every PNG carries what made it."""

    prompt: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PROMPT")] = ()
    """What to draw; several prompts give `count` pictures each."""

    @property
    def prompts(self) -> tuple[str, ...]:
        return self.prompt


def main(arguments: Sequence[str]) -> None:
    """Generates and saves."""
    draw(*read(Generate, arguments, "reverie generate"))
