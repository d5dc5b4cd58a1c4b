"""`reverie systems`: the published systems that can be opened, what they consist of, and what memory they need."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from reverie.cli.parse import parse
from reverie.errors import UserError, nearest


@dataclass(frozen=True)
class Systems:
    """Lists the published systems: `reverie generate --model PATH` opens each, and knows by the files which it is."""

    name: Annotated[str, tyro.conf.Positional] = ""
    """One of them, with the parameters of each of its nets."""
    json: bool = False
    """JSON on stdout: name, parameters of each net, defaults, bytes of the weights in memory where nets are bfloat16 or float32."""


def main(arguments: Sequence[str]) -> None:
    """Prints the list, or one of it."""
    asked = parse(Systems, arguments, "reverie systems", Systems())
    from reverie.systems.published import SYSTEMS  # loads torch, which --help has no need of

    known = {system.name: system for system in SYSTEMS}
    if asked.name and asked.name not in known:
        raise UserError(f"there is no system '{asked.name}'.{nearest(asked.name, known)}")
    records = [known[name].record() for name in ([asked.name] if asked.name else known)]
    if asked.json:
        print(json.dumps(records[0] if asked.name else records, indent=1))
        return
    if asked.name:
        _tell(records[0])
        return
    lines = [("name", "parameters", "weights", "size", "from", "")]
    lines += [(r["name"], _count(r), _memory(r), _size(r), r["opens"], r["about"]) for r in records]
    widths = [max(map(len, column)) for column in zip(*(line[:-1] for line in lines), strict=True)]
    for line in lines:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]).rstrip())
    print("\nweights: in memory, where nets compute in bfloat16; float32 takes up to twice as much, and drawing takes more")


def _count(record: dict[str, Any]) -> str:
    return f"{sum(record['parameters'].values()) / 1e6:,.0f} M"


def _memory(record: dict[str, Any]) -> str:
    return f"{record['memory']['bfloat16'] / 1e9:.1f} GB"


def _size(record: dict[str, Any]) -> str:
    return "x".join(map(str, record["defaults"]["size"]))


def _tell(record: dict[str, Any]) -> None:
    print(f"{record['name']}: {record['about']} ({record['source']})")
    for name, count in record["parameters"].items():
        print(f"  {name}: {count:,} parameters")
    d = record["defaults"]
    wide = record["memory"]["float32"] / 1e9
    print(f"weights in memory: {_memory(record)} where nets compute in bfloat16, {wide:.1f} GB in float32; drawing takes more")
    print(f"usually: {d['solver']}, {d['steps']} steps, guidance {d['guidance']:g}, {d['grid']}, {_size(record)}")
    print(f"opens from {record['opens']}: reverie generate --model PATH")
