"""`reverie doctor FILE --model MODEL`: what a file of changes is, what it fits, how strong it is, and what is missing.

With --convert it is written in another format, with --resize of another rank; with --extract it is made of two models.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from reverie.cli.parse import parse
from reverie.errors import UserError

SHOWN = 8
"""Keys, and entries of the metadata, that are listed."""
WIDE = 24
"""Signs of the longest bar."""


@dataclass(frozen=True)
class Doctor:
    """Looks at a LoRA of anyone's: its kind and format, the model it belongs to, and with --model whether it fits; and writes it
    in another format, of another rank, or as the difference of two models."""

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")] = ""
    """A safetensors file; with --extract a model."""
    model: str = ""
    """A model: how many of the keys apply to it, and how strong the changes are beside its weights."""
    convert: str = ""
    """Write it as these do: kohya, diffusers, peft, comfyui, onetrainer, lycoris, or reverie; with --model and --out."""
    resize: int = 0
    """Write the nearest changes of this rank, and say how much of each they keep; as --convert says, or as ours."""
    extract: int = 0
    """FILE is a changed model: write what makes it of --model as a LoRA of this rank; as --convert says, or as ours."""
    out: str = ""
    """What is written: a .safetensors file, or a folder for a file of its usual name."""
    metadata: bool = True
    """What is written says of itself what other tools read: modelspec and ss_ entries."""
    json: bool = False
    """Everything as one line of JSON."""


def main(arguments: Sequence[str]) -> None:
    """Examines, and says what is found, exit code 1 where not every key applies; or writes, and says what."""
    asked = parse(Doctor, arguments, "reverie doctor", Doctor())
    if not asked.file:
        raise UserError("reverie doctor takes a file: reverie doctor lora.safetensors --model MODEL")
    if asked.convert or asked.resize or asked.extract:
        return _write(asked)
    if asked.out:
        raise UserError("--out is what is written, and nothing is asked for: give --convert, --resize or --extract")
    from reverie.systems.lora.doctor import examined  # loads torch, which --help has no need of
    from reverie.systems.shipped import read_model

    found = examined(Path(asked.file).expanduser(), read_model(asked.model) if asked.model else None)
    print(json.dumps(asdict(found)) if asked.json else "\n".join(lines(found)))
    if found.unknown:
        sys.exit(1)


def _write(asked: Doctor) -> None:
    """The file that is asked for, instead of a report."""
    if not asked.model:
        raise UserError("what the layers are called depends on the model: name it with --model")
    if not asked.out:
        raise UserError("name what is written with --out: a .safetensors file, or a folder")
    if os.path.isfile(asked.out):
        raise UserError(f"{asked.out} is there already: name another file with --out")
    if asked.resize and asked.extract:
        raise UserError("--resize makes a LoRA smaller, and --extract makes one of two models: give one of them")
    from reverie.systems.lora.formats import format_of
    from reverie.systems.lora.small import extracted, resized
    from reverie.systems.lora.written import read, write
    from reverie.systems.shipped import read_model

    form, path = format_of(asked.convert or "reverie"), Path(asked.file).expanduser()
    base = read_model(asked.model)
    if asked.extract:
        kept = extracted(read_model(asked.file), base, asked.extract, path)
    elif asked.resize:
        kept = resized(path, base, asked.resize)
    found = kept.found if asked.extract or asked.resize else read(path, base)
    place = write(found, base, form, Path(asked.out).expanduser(), asked.metadata)
    if asked.extract or asked.resize:
        print(_share(kept.shares, kept.share, asked.extract or asked.resize), file=sys.stderr)
    print(place)


def _share(shares: Mapping[str, float], share: float, rank: int) -> str:
    """What is kept, and where least."""
    least = min(shares, key=lambda key: shares[key], default="")
    worst = f"; least of {least}, {shares[least]:.2%}" if least else ""
    return f"reverie: of the squares of {len(shares)} changes rank {rank} keeps {share:.2%}{worst}"


def lines(found: Any) -> list[str]:
    """A report to read."""
    out = [
        f"{'what':<10} {_all(found.kinds, 'layers')}, {found.keys} keys",
        f"{'names':<10} {found.format}",
        f"{'made for':<10} {found.family}" + (f", and {found.encoders} layers of encoders of words" if found.encoders else ""),
    ]
    if found.ranks:
        out.append(f"{'rank':<10} {_all(found.ranks, 'layers')}")
    if found.scales:
        out.append(f"{'alpha / r':<10} {_all(found.scales, 'layers')}")
    if found.applied is not None:
        out.append(f"{'fits':<10} {found.applied} of {found.keys} keys apply to {found.model}")
        out += _some("unknown", found.unknown)
    out += _some("no change", found.strange)
    if found.blocks:
        out.append(
            f"{'strength':<10} " + ("|D| / |W|" if found.applied is not None else "|D|") + ", the mean of each block's layers"
        )
        most = max(size for _, size in found.blocks.values()) or 1.0
        out += [
            f"  {block:<28} {count:>4} {size:9.4g} {'#' * round(WIDE * size / most)}"
            for block, (count, size) in found.blocks.items()
        ]
    said = {k: v for k, v in found.about.items() if not isinstance(v, (Mapping, list))}
    if said:
        out.append(f"{'says':<10} of itself, {len(said)} entries:")
        out += [f"  {k}: {str(v)[:100]}" for k, v in sorted(said.items())[: 2 * SHOWN]]
    return out


def _all(counts: Mapping[Any, int], what: str) -> str:
    """Each and how many have it; one alone without its count."""
    if len(counts) == 1:
        key, count = next(iter(counts.items()))
        return f"{key} ({count} {what})"
    return ", ".join(f"{key} ({count})" for key, count in list(counts.items())[:SHOWN])


def _some(what: str, keys: Sequence[str]) -> list[str]:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return [f"{what:<10} {', '.join(keys[:SHOWN])}{more}"] if keys else []
