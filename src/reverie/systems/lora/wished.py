"""Which changes are asked for, and how strongly: as text, and in the prompt.

"style.safetensors", "style.safetensors:0.8"
"lora(file='style.safetensors', weight=0.8, blocks={'down_blocks': 0.5, 'mid_block': 0}, start=0.2, stop=0.8)"
"<lora:style:0.8>" in a prompt, as A1111's web UI has it                                                          (1)

A name of (1) is that of a file without its ending, in a folder or below it; a second number is the weight of the net, and the first
then that of the encoders of words.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reverie.adapt.when import When
from reverie.card import parse, rebuild
from reverie.encode.syntax import Extra, extras
from reverie.errors import UserError, nearest, number

WORDS = "words"
"""The block that all encoders of words are."""
MOST = 20_000
"""Files of a folder that are looked at."""


@dataclass(frozen=True, kw_only=True)
class Wish(When):
    """A file of changes: weight, start, stop as of `When`; blocks: weights of some of its blocks, times that of all."""

    file: str
    blocks: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, weight in self.blocks.items():
            number(f"the weight of {name} in {self.file}", weight)

    @property
    def always(self) -> bool:
        """Whether it acts all the way."""
        return self.start == 0 and self.stop == 1


def lora(file: str, weight: float = 1.0, blocks: Mapping[str, float] | None = None, start: float = 0.0, stop: float = 1.0) -> Wish:
    """Its arguments as of `Wish`."""
    return Wish(file=file, weight=weight, blocks=blocks or {}, start=start, stop=stop)


def wished(text: str) -> Wish:
    """What is asked for by "FILE", "FILE:0.8" or "lora(file='...', ...)"."""
    if text.strip().startswith("lora(") and text.strip().endswith(")"):
        made: Wish = rebuild(parse(text), (lora,), "lora")
        return made
    place, _, last = text.rpartition(":")
    try:
        return Wish(file=place, weight=float(last)) if place else Wish(file=text)
    except UserError:
        raise
    except ValueError:
        return Wish(file=text)


def named(prompt: str, folder: Path) -> tuple[str, list[str]]:
    """The prompt without the LoRAs that it names, and these as texts for `wished`; UserError where there is none of a name."""
    _, files = extras(prompt)
    asked = [each for each in files if each.kind == "lora"]
    for each in asked:
        prompt = prompt.replace(each.text, "", 1)
    return (" ".join(prompt.split()) if asked else prompt), [_text(each, folder) for each in asked]


def _text(each: Extra, folder: Path) -> str:
    file = str(found(each.name, folder, each.text))
    try:
        numbers = [float(weight) for weight in each.weights]
    except ValueError:
        numbers = []
    if len(numbers) != len(each.weights) or len(numbers) > 2:
        raise UserError(f"'{each.text[:60]}' in the prompt: a weight is a number, as in <lora:{each.name[:30]}:0.8>")
    if len(numbers) == 2:  # the encoders' and the net's
        words, net = numbers
        if not net and words:
            raise UserError(f"'{each.text[:60]}' in the prompt changes the encoders alone: give the net a weight, too")
        return f"lora(file={file!r}, weight={net:g}, blocks={{{WORDS!r}: {words / net if net else 0.0!r}}})"
    return f"{file}:{numbers[0]!r}" if numbers else f"{file}:1.0"


def found(name: str, folder: Path, text: str) -> Path:
    """The file of this name in a folder or below it."""
    known: dict[str, list[Path]] = {}
    for file in _files(folder):
        known.setdefault(file.stem, []).append(file)
        known.setdefault(file.relative_to(folder).with_suffix("").as_posix(), []).append(file)
    files = list(dict.fromkeys(known.get(name, ())))
    if not files:
        stems = sorted(key for key in known if "/" not in key)
        if not stems:
            raise UserError(f"'{text[:60]}' in the prompt: {folder} holds no LoRA; name their folder with --loras")
        raise UserError(f"'{text[:60]}' in the prompt: there is no such file in {folder}.{nearest(name, stems)}")
    if len(files) > 1:
        places = " and ".join(file.relative_to(folder).with_suffix("").as_posix() for file in files[:3])
        raise UserError(f"'{text[:60]}' in the prompt may be {places}: say which, with its folder")
    return files[0]


def _files(folder: Path) -> list[Path]:
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is no folder: name that of the LoRAs with --loras")
    out: list[Path] = []
    for place, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        out += [Path(place) / name for name in sorted(names) if name.endswith(".safetensors") and not name.startswith(".")]
        if len(out) > MOST:
            raise UserError(f"{folder} holds more than {MOST} files: name the folder of the LoRAs with --loras")
    return out
