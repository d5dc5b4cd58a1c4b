"""`reverie evaluate MODEL`: distances from real pictures, agreement with what was asked, copies and time, in one table."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro
from tqdm import tqdm

from reverie.cli.parse import parse
from reverie.measure.report import table
from reverie.systems.shipped import open_model
from reverie.tasks.evaluate import evaluate
from reverie.tasks.settings import wanted


@dataclass(frozen=True)
class Evaluate:
    """How good a model is. Real pictures and noise, measured in the same way, stand beside it: the floor and the ceiling."""

    model: Annotated[str, tyro.conf.Positional] = "reverie-avatars"
    """A shipped model, a .safetensors file that `reverie train` wrote, or the folder of a run."""
    data: str = ""
    """Real pictures: a folder or file; '' = those it was trained on."""
    samples: int = 500
    """Pictures made and measured; compare only Frechet distances of the same number."""
    steps: int | None = None
    guidance: float | None = None
    solver: str | None = None
    seed: int = 0
    batch: int = 50
    json: bool = False
    """One JSON object on stdout."""


def main(arguments: Sequence[str]) -> None:
    """Evaluates and prints."""
    asked = parse(Evaluate, arguments, "reverie evaluate", Evaluate())
    settings = {k: v for k, v in asdict(asked).items() if k not in ("model", "json")}
    wanted("", {k: settings[k] for k in ("steps", "guidance", "solver", "seed", "batch")})
    system = open_model(asked.model)
    with tqdm(unit="picture", file=sys.stderr, dynamic_ncols=True, leave=False) as bar:

        def progress(done: int, count: int) -> None:
            bar.total = count
            bar.update(done - bar.n)

        sheet = evaluate(system, progress=progress, **settings)
    if asked.json:
        print(json.dumps({"model": system.name, "settings": {"model": asked.model, **settings}, **sheet.record()}))
        return
    print(table(sheet.rows))
    print(f"\ndistances from {sheet.references} real pictures in the features of {sheet.space}; 3 neighbours")
    if sheet.rows[0].copies is None:
        print("copies: not measured, because these are not the pictures that the model was trained on")
    else:
        print("copies: nearer to a training picture than 95 % of held-out real pictures are, at 16 pixels")
    for name, mark in sheet.marks.items():
        each = ", ".join(f"{k} {v:.0%}" for k, v in mark.each.items())
        print(f"agreement with {name}: {mark.overall:.1%} of {sum(mark.asked.values())} attributes ({each})")
