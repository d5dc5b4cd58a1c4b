"""Quality against the number of evaluations, for each solver, on the shipped model.

    python bench/nfe.py --samples 120 --out bench/results/nfe.csv --plot docs/nfe.png

Per solver and NFE: KID x 1000 against real avatars (EfficientNet-Lite0), agreement with the prompts (reader), and the root
mean square distance of the pictures to the limit that all ODE solvers share (Heun, 199 evaluations, same seeds), in 8-bit levels.
Every solver gets the most steps that spend no more evaluations; Frechet distances are of as many real pictures as are made.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from reverie.card import parse, rebuild
from reverie.data.avatars import avatars
from reverie.measure.agreement import shown
from reverie.measure.distances import frechet, kid
from reverie.measure.features import imagenet
from reverie.measure.prompts import avatar_prompts
from reverie.process.grids import GRIDS
from reverie.solve import named, rehearse
from reverie.solve.table import ROWS
from reverie.systems.shipped import open_model, open_reader
from reverie.tasks.evaluate import array
from reverie.tasks.generate import run
from reverie.tasks.settings import settle

NFES = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 50)
LEFT = ("ddpm-learned", "rk23", "rk45", "adaptive-sde", "langevin")  # ask for a learnt variance, or for hundreds of evaluations
SOLVERS = ("tuned", *(row.name for row in ROWS if row.name not in LEFT))


@dataclass
class Bench:
    samples: int = 120
    solvers: tuple[str, ...] = SOLVERS
    nfes: tuple[int, ...] = NFES
    keep: bool = False
    """Keep the rows of other solvers that --out already has."""
    out: Path = Path("bench/results/nfe.csv")
    plot: Path = Path("docs/nfe.png")


def steps_for(system, solver, nfe):
    """The most steps that spend at most `nfe` evaluations; None where they would be far fewer."""
    if solver == "tuned":
        return nfe if nfe in system.tuned else None
    path, make = system.denoiser.path, rebuild(parse(system.defaults.grid), GRIDS, "grid")
    for steps in range(nfe + 1, 0, -1):  # one more: some do not look at t = 1
        used, _ = rehearse(named(solver)[0], path, make(path, steps))
        if used <= nfe:
            return steps if used > 0.7 * nfe else None
    return None


def pictures(system, prompts, **settings):
    events = run(system, settle(system, [p.text for p in prompts], settings | {"batch": 50}))
    return [p for event in events if isinstance(event, list) for p in event]


def draw(made, place):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = (
        "tuned",
        "ddim",
        "lms",
        "dpmpp-2m",
        "dpmpp-3m",
        "unipc-2",
        "unipc-3",
        "ipndm",
        "deis-2",
        "dpmpp-2s",
        "heun",
        "ddpm",
        "er-sde-3",
    )
    figure, axis = plt.subplots(figsize=(8, 4.2), layout="constrained")
    axis.set_prop_cycle(color=["black", *plt.get_cmap("tab20").colors[::2], "gold", "navy"])
    for name in shown:
        points = [(int(row["nfe"]), float(row["kid_x1000"])) for row in made if row["solver"] == name]
        axis.loglog(*zip(*points, strict=True), ".-", label=name, lw=2.5 if name == "tuned" else 1)
    axis.set_xticks(NFES, NFES, minor=False)
    axis.set_xticks([], minor=True)
    axis.set_xlabel("evaluations (guided pairs)")
    axis.set_ylabel("KID x 1000")
    figure.legend(loc="outside right center", fontsize=8)
    figure.savefig(place, dpi=90)


def main(bench: Bench):
    system, reader, features = open_model("reverie-avatars"), open_reader("avatars"), imagenet()
    prompts = avatar_prompts(2 * bench.samples)[::2]
    asked = [p.attributes for p in prompts]
    _, held = avatars().split(1000)
    real = features(held.images)
    limit = array(pictures(system, prompts, solver="heun", steps=100)).astype(float)
    bench.out.parent.mkdir(parents=True, exist_ok=True)
    kept = [row for row in csv.reader(bench.out.open()) if row[0] not in ("solver", *bench.solvers)] if bench.keep else []
    with bench.out.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["solver", "nfe", "samples", "kid_x1000", "frechet", "agreement", "rms_to_limit", "seconds_per_picture"])
        table.writerows(kept)
        for solver in bench.solvers:
            for nfe in bench.nfes:
                if (steps := steps_for(system, solver, nfe)) is None:
                    continue
                made = pictures(system, prompts, solver=solver, steps=steps)
                images = array(made)
                rms = float(np.sqrt(np.square(images - limit).mean()))
                row = [
                    solver,
                    made[0].nfe,
                    len(made),
                    1000 * kid(real, seen := features(images))[0],
                    frechet(real[: len(made)], seen),
                    shown(images, asked, reader).overall,
                    rms,
                ]
                table.writerow([*row, np.mean([p.seconds for p in made])])
                file.flush()
                print(*row)
    draw(list(csv.DictReader(bench.out.open())), bench.plot)


if __name__ == "__main__":
    main(tyro.cli(Bench))
