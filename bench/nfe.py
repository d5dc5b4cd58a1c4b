"""Quality against the number of evaluations, for each solver, on the shipped model.

    python bench/nfe.py --samples 200 --out bench/results/nfe.csv

Per solver and NFE: KID x 1000 against real avatars (EfficientNet-Lite0), agreement with the prompts (reader), and the root
mean square distance of the pictures to the limit that all ODE solvers share (Heun, 199 evaluations, same seeds), in 8-bit levels.
Two-stage solvers get the number of steps that spends the same evaluations.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from reverie.data.avatars import avatars
from reverie.measure.agreement import shown
from reverie.measure.distances import kid
from reverie.measure.features import imagenet
from reverie.measure.prompts import avatar_prompts
from reverie.systems.shipped import open_model, open_reader
from reverie.tasks.evaluate import array
from reverie.tasks.generate import run, settle

NFES = (1, 2, 3, 4, 6, 8, 10, 15, 20, 30, 50)
STAGES = {"heun": 2, "midpoint": 2, "rk4": 4}  # evaluations of a step that does not end at 0
SOLVERS = ("ddpm", "ddim", "euler", "heun", "midpoint", "rk4", "dpmpp-1m", "dpmpp-2m", "dpmpp-3m", "dpmpp-2m-sde", "dpmpp-3m-sde")


@dataclass
class Bench:
    samples: int = 200
    solvers: tuple[str, ...] = SOLVERS
    nfes: tuple[int, ...] = NFES
    out: Path = Path("bench/results/nfe.csv")


def steps_for(solver, nfe):
    """Steps that spend at most `nfe` evaluations; None where there are none."""
    if solver == "dpmpp-3m":
        return nfe - 2 if nfe > 3 else None  # its first two steps take two
    steps = (nfe - 1) // STAGES.get(solver, 1) + 1
    return steps if solver not in STAGES or nfe > 1 else None


def pictures(system, prompts, **settings):
    events = run(system, settle(system, [p.text for p in prompts], settings | {"batch": 50}))
    return [p for event in events if isinstance(event, list) for p in event]


def main(bench: Bench):
    system, reader, features = open_model("reverie-avatars"), open_reader("avatars"), imagenet()
    prompts = avatar_prompts(2 * bench.samples)[::2]
    asked = [p.attributes for p in prompts]
    _, held = avatars().split(1000)
    real = features(held.images)
    limit = array(pictures(system, prompts, solver="heun", steps=100)).astype(float)
    bench.out.parent.mkdir(parents=True, exist_ok=True)
    with bench.out.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["solver", "nfe", "samples", "kid_x1000", "agreement", "rms_to_limit", "seconds_per_picture"])
        for solver in bench.solvers:
            for nfe in bench.nfes:
                if (steps := steps_for(solver, nfe)) is None:
                    continue
                made = pictures(system, prompts, solver=solver, steps=steps)
                images = array(made)
                rms = float(np.sqrt(np.square(images - limit).mean()))
                row = [
                    solver,
                    made[0].nfe,
                    len(made),
                    1000 * kid(real, features(images))[0],
                    shown(images, asked, reader).overall,
                    rms,
                ]
                table.writerow([*row, np.mean([p.seconds for p in made])])
                file.flush()
                print(*row)


if __name__ == "__main__":
    main(tyro.cli(Bench))
