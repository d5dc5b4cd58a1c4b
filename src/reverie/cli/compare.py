"""`reverie compare "a bald man" --x solver=euler,ddim --y steps=5,10,20`: two settings side by side, as a picture and a table."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from reverie.cli.drawing import TAKEN, of_solver, opened, read, unheeded
from reverie.cli.generate import Generate
from reverie.cli.parse import parse
from reverie.errors import UserError
from reverie.files import check_place
from reverie.systems.lora import wished
from reverie.tasks.compare import LONG, STEPS, Axis, Cell, Comparison, Result, prepare, results, save, table
from reverie.tasks.generate import notes

PROG = "reverie compare"


@dataclass(frozen=True)
class Compare(Generate):
    """A grid of pictures over two settings, and what each cell costs and how far it is from a long run of an ODE solver.

    Settings that can be an axis: solver, steps, guidance, grid, seed, style, negative, prompt, model.
    """

    out: str = "compare.png"
    """The picture; the table goes beside it, as .csv. Both replace what is there."""
    json: bool = False
    """One JSON line per cell on stdout instead of the table."""
    x: str = ""
    """Columns, as solver=euler,ddim. A comma inside brackets or double quotes belongs to the value."""
    y: str = ""
    """Rows, likewise."""
    reference: int = STEPS
    """Steps of the long run; 0 = none, and no distances."""


def main(arguments: Sequence[str]) -> None:
    """Compares, prints and saves."""
    asked, made = read(Compare, arguments, PROG)
    if late := [text for text in asked.lora if not wished(text).always]:
        raise UserError(f"{late[0]} acts on a part of the way, which reverie compare does not draw: leave out start and stop")
    x, y = (_axis(flag, getattr(asked, flag)) for flag in ("x", "y"))
    _refuse_twice(parse(Compare, arguments, PROG, Compare()), (x, y))
    out = _place(asked.out)
    base = {name: getattr(asked, name) for name in TAKEN} | {"prompt": asked.prompt or ("",), "model": asked.model}
    comparison = prepare(base, x, y, steps=asked.reference, load=lambda model: opened(replace(asked, model=model), made))
    for note in dict.fromkeys(note for cell in comparison.cells for note in _notes(cell, asked, (x, y))):
        print(f"reverie: {note}", file=sys.stderr)
    found = _shown(comparison, asked.json)
    save(comparison, found, out)
    if not asked.json:
        _say(comparison, found, asked)
        print(out)


def _notes(cell: Cell, asked: Compare, axes: Sequence[Axis]) -> list[str]:
    """What has no effect on a cell; its guidance counts only where it was asked for, not where it is the model's own."""
    system, settings = cell.work.system, cell.work.settings
    own = asked.guidance is None and all(axis.name != "guidance" for axis in axes)
    unused = unheeded(system, settings.negative, None if own else settings.guidance)
    return [*notes(system, settings), *unused, *of_solver(cell.place.get("solver", asked.solver), settings)]


def split(text: str) -> list[str]:
    """The values between commas that stand in no bracket and in no double quotes; UserError where a bracket or quote stays open."""
    values, value, depth, quoted = [], "", 0, False
    for sign in f"{text},":
        if sign == '"' and (quoted or not value.strip()):
            quoted = not quoted
        elif not quoted:
            depth = max(0, depth + (sign in "([{") - (sign in ")]}"))
        if sign == "," and not depth and not quoted:
            values.append(value.strip())
            value = ""
        else:
            value += sign
    if value:
        raise UserError(f"'{text}' leaves a bracket or a quote open: close it, or put the value in double quotes")
    return values


def _axis(flag: str, text: str) -> Axis:
    if not text:
        return Axis()
    name, given, values = text.partition("=")
    if not given:
        raise UserError(f"--{flag} is '{text}': write it as SETTING=VALUE,VALUE, for example steps=5,10,20")
    axis = Axis(name)  # a wrong name is said before its values are looked at
    return replace(axis, values=tuple(_value(flag, name, value) for value in split(values)))


def _value(flag: str, name: str, text: str) -> Any:
    """A value as `reverie generate` reads it."""
    if not text:
        raise UserError(f'--{flag}: {name} has an empty value; take out a comma, or write "" for one that is meant to be empty')
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    return text if name == "prompt" else getattr(parse(Compare, [f"--{name}={text}"], PROG, Compare()), name)


def _refuse_twice(given: Compare, axes: Sequence[Axis]) -> None:
    """An option that would be ignored is refused by name."""
    for axis in axes:
        if axis.name and getattr(given, axis.name) != getattr(Compare(), axis.name):
            words = "the prompt" if axis.name == "prompt" else f"--{axis.name}"
            raise UserError(f"{axis.name} is on an axis: leave out {words}")


def _place(text: str) -> Path:
    out = Path(text)
    if out.suffix.lower() != ".png":
        raise UserError(f"--out is '{text}', but the picture is a PNG: let its name end in .png")
    for path in (out, out.with_suffix(".csv")):
        check_place(path)
    return out


def _shown(comparison: Comparison, lines: bool) -> list[Result]:
    """The finished cells, with a bar over all evaluations of the net; lines: each is said at once, as JSON."""
    found = []
    with tqdm(total=comparison.total, unit="evaluation", file=sys.stderr, dynamic_ncols=True, leave=False) as bar:
        for one in results(comparison, bar.update):
            found.append(one)
            if lines:
                print(json.dumps(one.row()), flush=True)
    return found


def _say(comparison: Comparison, found: Sequence[Result], asked: Compare) -> None:
    print(table(comparison, found))
    if any(cell.long for cell in comparison.cells):
        long = f"{LONG} with {asked.reference} steps on the model's own grid, all else the same"
        print(f"\ndistance: from {long}: root mean square over all pixels, in levels from 0 to 255")
    if any(cell.noisy for cell in comparison.cells):
        print("draws noise: ends in another picture on purpose, so that a distance would mean nothing")
