"""`reverie solvers`: every sampler, its order, evaluations and noise; `reverie solvers "DPM++ 2M Karras"`: what a name means."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from reverie.cli.parse import parse

TUNED = (
    "the solvers of few steps that `reverie tune` fitted to a model, one per number of steps, with times of their own; "
    "`reverie generate --solver tuned --steps N` uses them"
)


@dataclass(frozen=True)
class Solvers:
    """Lists the samplers. What follows a name in other tools, as Karras, is a grid; a grid that is not named is the model's own."""

    name: Annotated[str, tyro.conf.Positional] = ""
    """Any name, of ours or of A1111, ComfyUI, diffusers or InvokeAI: says which solver and grid it means, and what differs."""
    json: bool = False
    """One JSON list on stdout: name, aliases, family, order, evaluations per step, stochastic, note."""


def main(arguments: Sequence[str]) -> None:
    """Prints the table, or what one name means."""
    asked = parse(Solvers, arguments, "reverie solvers", Solvers())
    if asked.name.strip().casefold() == "tuned":
        print(json.dumps([{"name": "tuned", "note": TUNED}], indent=1) if asked.json else textwrap.fill(f"tuned: {TUNED}", 120))
        return
    from reverie.solve.names import find  # loads torch, which --help has no need of
    from reverie.solve.table import ROWS

    found = find(asked.name) if asked.name else None
    records = [record(row) for row in ([found.row] if found else ROWS)]
    if asked.json:
        print(json.dumps([r | {"grid": found.grid} for r in records] if found else records, ensure_ascii=False, indent=1))
        return
    lines = [("name", "family", "order", "evaluations", "noise", "called")]
    lines += [(r["name"], r["family"], str(r["order"]), f"{r['evaluations_per_step']:g}", _noise(r), _aliases(r)) for r in records]
    widths = [max(map(len, column)) for column in zip(*(line[:-1] for line in lines), strict=True)]
    for line in lines:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]).rstrip())
    if found:
        _say(found.grid, records[0])


def record(row: Any) -> dict[str, Any]:
    """A row of the table with what was measured of its solver."""
    from reverie.solve.names import facts
    from reverie.solve.table import TOOLS

    aliases = {tool: list(row.names(tool)) for tool in TOOLS}
    return {"name": row.name, "aliases": aliases, "family": row.family, **facts(row.make())._asdict(), "note": row.note}


def _noise(record: dict[str, Any]) -> str:
    return "yes" if record["stochastic"] else "no"


def _aliases(record: dict[str, Any]) -> str:
    """The first name of each tool, those alike said once."""
    firsts: dict[str, str] = {}
    for names in record["aliases"].values():
        if names:
            firsts.setdefault(names[0].casefold(), names[0])
    return ", ".join(firsts.values())


def _say(grid: str | None, record: dict[str, Any]) -> None:
    for tool, names in record["aliases"].items():
        if names:
            print(f"{tool}: {', '.join(names)}")
    print(f"grid: {grid or 'that of the model, for the name says none'}")
    if record["note"]:
        print(textwrap.fill(f"note: {record['note']}", 120))
