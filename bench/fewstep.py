"""Every few-step method on the same teacher, at 1, 2 and 4 steps, beside the teacher itself.

    reverie train fashion-mnist
    python bench/fewstep.py train --teacher runs/fashion-mnist --folder runs/fewstep
    python bench/fewstep.py measure --teacher runs/fashion-mnist --folder runs/fewstep

Each run (method, steps, seed) learns `--share` of the samples that the teacher saw, and goes on where it stopped. Methods whose
students draw with any number of steps are trained once for all. The teacher is drawn with its own guidance, and counts two
evaluations a step where that is not 1. share: the samples that a student learnt from, of those that the teacher did; cpu s: what
that took. What is measured, and how, is `reverie evaluate`'s; rows of the same run are replaced.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from rows import put as write

from reverie.cli.distill import Distill
from reverie.systems.distilled import KINDS
from reverie.systems.shipped import open_model
from reverie.tasks.evaluate import evaluate
from reverie.tasks.train import Session

KEY = ("teacher", "method", "steps", "seed")
FIELDS = (*KEY, "nfe", "n", "kid x 1000", "frechet", "precision", "recall", "agreement", "share", "cpu s")
ANY = tuple(k for k, kind in KINDS.items() if not kind.count and k not in ("guidance", "one_step"))
"""Methods whose students draw with any number of steps."""
ONCE = ("one_step", "sid")
"""And those that draw in one."""


@dataclass
class Bench:
    what: tyro.conf.Positional[Literal["train", "measure"]]
    teacher: str = "runs/fashion-mnist"
    folder: Path = Path("runs/fewstep")
    methods: tuple[str, ...] = tuple(KINDS)
    steps: tuple[int, ...] = (1, 2, 4)
    seeds: tuple[int, ...] = (0, 1, 2)
    share: float = 0.1
    batch: int = 32
    rate: float = 5e-4
    samples: int = 500
    out: Path = Path("bench/results/fewstep.csv")


def runs(bench):
    """(method, steps it is trained for, steps it is measured at, seed)."""
    for seed in bench.seeds:
        for method in bench.methods:
            if method == "guidance":
                continue  # which keeps the teacher's steps
            if method in ANY:
                yield method, 2, bench.steps, seed
            else:
                yield from ((method, n, (n,), seed) for n in bench.steps if n == 1 or method not in ONCE)


def seen(teacher):
    """How many samples the teacher learnt from."""
    about = open_model(teacher).about
    return int(about["steps"] if "steps" in about else about["recipe"]["training"]["steps"]) * about["recipe"]["training"]["batch"]


def folder_of(bench, method, steps, seed):
    return bench.folder / f"{method}-{steps}-{seed}"


def train(bench):
    updates = round(bench.share * seen(bench.teacher) / bench.batch)
    for method, steps, _, seed in runs(bench):
        folder = folder_of(bench, method, steps, seed)
        if (folder / "spent.json").exists():
            continue
        how = {"updates": updates, "rate": bench.rate, "batch": bench.batch, "seed": seed, "pairs": 4000}
        asked = Distill(method=method, teacher=bench.teacher, steps=steps, **how)
        session, begin = Session.open(asked.recipe(), folder, resume=True), time.process_time()
        for now in session:
            if now.step % 50 == 0:
                print(method, steps, seed, now.step, updates, f"{now.loss:.4f}", flush=True)
        spent = {"cpu_seconds": round(time.process_time() - begin, 1), "updates": updates, "batch": bench.batch}
        (folder / "spent.json").write_text(json.dumps(spent))


def measured(system, bench, **settings):
    row = evaluate(system, bench.samples, **settings).rows[0]
    return {"n": row.n, "kid x 1000": row.kid, "frechet": row.frechet, "precision": row.precision, "recall": row.recall,
            "agreement": row.agreement}  # fmt: skip


def measure(bench):
    system, rows = open_model(bench.teacher), []
    for seed in bench.seeds:
        for steps in (1, 2, 4, 8, 35):
            twice = 1 if system.defaults.guidance == 1 else 2
            found = measured(system, bench, steps=steps, seed=1000 * seed)
            rows.append({"method": "teacher", "steps": steps, "seed": seed, "nfe": twice * steps, **found})
            put(bench, rows)
    for method, trained, at, seed in runs(bench):
        folder = folder_of(bench, method, trained, seed)
        if not (folder / "spent.json").exists():
            continue
        spent, student = json.loads((folder / "spent.json").read_text()), open_model(str(folder))
        for steps in at:
            found = measured(student, bench, steps=steps, seed=1000 * seed)
            share = spent["updates"] * spent["batch"] / seen(bench.teacher)
            rows.append(
                {
                    "method": method,
                    "steps": steps,
                    "seed": seed,
                    "nfe": steps,
                    **found,
                    "share": share,
                    "cpu s": spent["cpu_seconds"],
                }
            )
            put(bench, rows)


def put(bench, rows):
    """The rows, beside those of other runs."""
    write(bench.out, FIELDS, KEY, [{"teacher": Path(bench.teacher).name, **row} for row in rows])


if __name__ == "__main__":
    torch.set_num_threads(1)
    asked = tyro.cli(Bench)
    measure(asked) if asked.what == "measure" else train(asked)
