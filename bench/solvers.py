"""Error against the number of evaluations, for every deterministic solver on five paths, where the truth is known.

    python bench/solvers.py --out bench/results/solvers.csv --plot docs/solvers.png

Data: a mixture of three Gaussians in the plane; 64 starts from the prior; the Karras grid of each path. Error: root mean square
distance of the ends from those of the exact flow (RK45 with a tolerance of 1e-9), in units of the data's deviation.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from reverie import oracle
from reverie.process import grids, schedules
from reverie.rng import Rng
from reverie.solve import facts, named, rehearse, rk45, sample
from reverie.solve.table import ROWS

PATHS = {"vp": schedules.vp(), "edm": schedules.edm(), "flow": schedules.flow(), "cosine": schedules.cosine(), "ve": schedules.ve()}
NFES = (3, 4, 5, 6, 7, 8, 10, 15, 20, 50)
F64 = torch.float64


@dataclass
class Bench:
    out: Path = Path("bench/results/solvers.csv")
    plot: Path = Path("docs/solvers.png")


def mixture(path):
    means = torch.tensor([[1.2, 0.3], [-0.8, 1.0], [0.1, -1.1]], dtype=F64)
    return oracle.Mixture(path, means, torch.tensor([0.35, 0.25, 0.45], dtype=F64), torch.tensor([0.5, 0.3, 0.2], dtype=F64))


def spent(solver, path):
    """{wanted evaluations: (steps, evaluations)}: the most steps that take no more, where they are not far fewer."""
    used = {steps: rehearse(solver, path, grids.karras()(path, steps))[0] for steps in (*range(1, 16), *range(16, 51, 2))}
    best = {nfe: max(((u, steps) for steps, u in used.items() if u <= nfe), default=(0, 0)) for nfe in NFES}
    return {nfe: (steps, u) for nfe, (u, steps) in best.items() if u > 0.7 * nfe}


def rows():
    for where, path in PATHS.items():
        model = mixture(path)
        x = path.prior((64, 2), rng=Rng.of(0, 64, dtype=F64))
        truth = sample(model, x, torch.tensor([1.0, 0.0], dtype=F64), rk45(1e-9, 1e-9))
        size = float(truth.std())
        for row in ROWS:
            solver = named(row.name)[0]
            if row.family == "adaptive" or facts(solver).stochastic:
                continue
            for steps, nfe in spent(solver, path).values():
                end = sample(model, x, grids.karras()(path, steps), solver)
                yield where, row.name, nfe, float((end - truth).square().mean().sqrt()) / size


def draw(made, place):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = ("ddim", "heun", "rk4", "dpmpp-2m", "dpmpp-3m", "unipc-3", "ipndm", "deis-3", "dpmpp-2s", "lms")
    figure, axes = plt.subplots(1, len(PATHS), figsize=(15, 3.6), sharey=True, layout="constrained")
    for axis, where in zip(axes, PATHS, strict=True):
        for name in shown:
            points = [(nfe, error) for at, who, nfe, error in made if (at, who) == (where, name)]
            axis.loglog(*zip(*points, strict=True), ".-", label=name, lw=1)
        axis.set_title(where)
        axis.set_xticks(NFES[::3], NFES[::3], minor=False)
        axis.set_xticks([], minor=True)
        axis.set_xlabel("evaluations")
    axes[0].set_ylabel("error / deviation of the data")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(place, dpi=90)


def main(bench: Bench):
    made = []
    for row in rows():
        made.append(row)
        print(*row)
    with bench.out.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "solver", "nfe", "error"])
        table.writerows((*row[:3], f"{row[3]:.6g}") for row in made)
    draw(made, bench.plot)


if __name__ == "__main__":
    main(tyro.cli(Bench))
