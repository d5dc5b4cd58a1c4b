"""Rows of results: a CSV in which the rows of a run that is measured again take the place of the old ones."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def put(out: Path, fields: Sequence[str], key: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the rows beside those of other runs, which differ in an entry of `key`; prints the last."""
    new = [{k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in row.items()} for row in rows]
    print(new[-1], flush=True)
    old = list(csv.DictReader(out.open())) if out.exists() else []
    known = {tuple(row[k] for k in key) for row in new}
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows([row for row in old if tuple(row[k] for k in key) not in known] + new)
