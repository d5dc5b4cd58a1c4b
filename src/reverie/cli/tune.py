"""`reverie tune MODEL --nfe 5,8,10`: fits few-step solvers to a model; `reverie generate --solver tuned --steps 5` uses them."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro
from tqdm import tqdm

from reverie.cli.parse import parse
from reverie.errors import UserError
from reverie.files import check_place
from reverie.systems.shipped import beside, open_model
from reverie.tasks.tune import Found, store, tune


@dataclass(frozen=True)
class Tune:
    """Times and weights of a solver of few steps, fitted to what the model itself does in many; stored beside the model."""

    model: Annotated[str, tyro.conf.Positional] = "reverie-avatars"
    """A shipped model, a .safetensors file, or the folder of a run."""
    nfe: str = "5,8,10"
    """Numbers of evaluations, parted by commas."""
    samples: int = 32
    """Pictures of the long run; the half of them judges."""
    seed: int = 1_000_000
    """Of the first of them, far from those that people begin with."""
    json: bool = False
    """One line per solver on stdout."""


def main(arguments: Sequence[str]) -> None:
    """Tunes, stores and tells."""
    asked = parse(Tune, arguments, "reverie tune", Tune())
    numbers = _numbers(asked.nfe)
    if asked.seed < 0:
        raise UserError(f"--seed is {asked.seed}; seeds are 0 or larger")
    check_place(beside(asked.model))
    system = open_model(asked.model)
    found: list[Found] = []
    with tqdm(file=sys.stderr, dynamic_ncols=True, leave=False, bar_format="{desc} [{elapsed}]") as bar:
        for said, made in tune(system, numbers, asked.samples, asked.seed):
            bar.set_description_str(said)
            if made:
                found.append(made)
                store(system, asked.model, found, asked.samples)
    for one in found:
        if asked.json:
            print(json.dumps({"nfe": one.nfe, "distance": one.distance, "dpmpp-2m": one.usual, "knots": one.solver.knots}))
        else:
            print(f"{one.nfe} evaluations: distance {one.distance:.4f} from the long run; dpmpp-2m {one.usual:.4f}")
    if not asked.json:
        print(f"written: {beside(asked.model)}; use them with `reverie generate --solver tuned --steps {found[0].nfe}`")


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--nfe is '{text}': give whole numbers parted by commas, such as 5,8,10") from None
