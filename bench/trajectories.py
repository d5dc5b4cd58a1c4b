"""Few-step methods on points in the plane: the ways before and after, and a table of every method that takes points.

    python bench/trajectories.py

The teacher is `reverie train toy-2d` on the flow path; each student begins as it, and learns as many samples as it did. Written:
bench/results/fewstep-toy.csv, the energy distance x 1000 of 8,000 drawn points to 8,000 others of the data (the data's own: the row
`data`), and the straightness of the ways; docs/figures/trajectories.png, the ways of the same 40 noises.
"""

import csv
import time
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from reverie.card import parse, rebuild
from reverie.distill import Distilling, Store, Teacher, straightness, student_of
from reverie.distill.distilling import energy
from reverie.process.grids import GRIDS, uniform
from reverie.rng import Rng
from reverie.solve import heun, named, sample, trace
from reverie.systems.distilled import KINDS
from reverie.systems.toy.recipe import TOY, ring
from reverie.train.loop import Run, fit
from reverie.train.training import Training

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "runs" / "trajectories"
FIELDS = ("method", "steps", "energy x 1000", "straightness", "seconds")
LENGTH = 3000
TRAINING = Training(steps=LENGTH, batch=256, rate=2e-3, warmup=50, decay=0.5, widths=(0.05,), snapshots=0, validate_minutes=1e5)
SKIPPED = ("guidance", "add", "ladd", "denoising_gan")
"""Which need a prompt, or judge pictures."""
CALLS = {"ect": "ect(mean=0.0, deviation=1.6)", "scm": "scm(times='log_normal(mean=0, deviation=1.6)')"}
GRID = "uniform()"
DRAWN = 8000


def finish(job, training, name):
    """What the job teaches, at the end."""
    run = Run(job, training, FOLDER / name)
    run.folder.mkdir(parents=True, exist_ok=True)
    for _ in fit(run):
        pass
    job.module.load_state_dict(run.ema.averages[0])
    return job.module.eval()


def teacher():
    recipe = replace(TOY, objective=replace(TOY.objective, path="flow()", rule="velocity()", times="logit_normal()"))
    system, job = recipe.prepare(recipe.pictures())
    finish(job, TRAINING, "teacher")
    return system.denoiser, job


def taught(name, steps, model, base):
    """The student of a method, and what drew for it."""
    kind = KINDS[name]
    card = {**parse(CALLS.get(name, f"{name}()"))}
    card |= {kind.count: steps} if kind.count else {}
    card |= {"grid": GRID} if kind.grid else {}
    method = rebuild(card, [kind.make], "method")
    grid = rebuild(parse(GRID), GRIDS, "grid")(model.path, steps)
    student, asked = student_of(model, method), kind.teacher != "never"
    own = Teacher(model)
    job = Distilling(
        student, base.data, base.held, method=method, teacher=own if asked else None, solver=named(kind.solver)[0], grid=grid
    )
    if kind.pairs:
        job.pairs(Store(own, 8000, (2,), heun(), uniform()(model.path, 20)), TRAINING.batch)
    finish(job, replace(TRAINING, rate=5e-4), f"{name}-{steps}")
    return student


@torch.no_grad()
def drawn(model, steps, solver):
    rng = Rng.of(5_000_000, DRAWN)
    x = model.path.prior((DRAWN, 2), rng=rng, spread=1.0)
    return sample(model, x, rebuild(parse(GRID), GRIDS, "grid")(model.path, steps), solver, rng=rng)


def main():
    torch.set_num_threads(1)
    model, base = teacher()
    truth, noise = ring(Rng.of(1_000_000, DRAWN)), torch.randn(512, 2, generator=torch.Generator().manual_seed(0))
    fine = uniform()(model.path, 64)
    own = energy(ring(Rng.of(2_000_000, DRAWN)), truth)
    rows = [{"method": "data", "steps": "", "energy x 1000": 1000 * own, "straightness": ""}]
    students = {("teacher", 0): model}

    def add(name, steps, student, solver, seconds=0.0):
        bent = straightness(student, noise, fine, heun()).median() if steps == 1 and not student.hears else ""
        made = {"energy x 1000": 1000 * energy(drawn(student, steps, solver), truth), "straightness": bent}
        rows.append({"method": name, "steps": steps, **made, "seconds": seconds})
        print({k: f"{float(v):.4g}" if isinstance(v, (float, torch.Tensor)) else v for k, v in rows[-1].items()}, flush=True)

    for steps in (1, 2, 4, 8, 35):
        add("teacher", steps, model, named("ddim")[0])
    for name, kind in KINDS.items():
        if name in SKIPPED:
            continue
        for steps in (1, 2, 4):
            if name in ("one_step", "sid") and steps > 1:
                continue
            begin = time.perf_counter()
            if kind.count or steps == 1:
                students[name, steps] = taught(name, steps, model, base)
            student = students.get((name, steps)) or students[name, 1]
            add(name, steps, student, named(kind.solver)[0], time.perf_counter() - begin)
    with (ROOT / "bench/results/fewstep-toy.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(
            {k: f"{float(v):.4g}" if isinstance(v, (float, torch.Tensor)) else v for k, v in row.items()} for row in rows
        )
    figure(students, truth, {row["method"]: row for row in rows if row["steps"] in (1, 35)})


def figure(students, truth, rows):
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(1))
    panels = [("teacher", 0, 64, "the teacher, 64 steps"), ("reflow", 1, 64, "reflowed, 64 steps"),
              ("teacher", 0, 2, "the teacher, 2 steps"), ("reflow", 1, 2, "reflowed, 2 steps"), ("fast", 2, 2, "fast, 2 steps"),
              ("meanflow", 1, 2, "meanflow, 2 steps")]  # fmt: skip
    picture, places = plt.subplots(2, 3, figsize=(12, 8), layout="constrained")
    for place, (name, trained, steps, title) in zip(places.ravel(), panels, strict=True):
        student = students[name, trained]
        ways = [x, *(step.x for step in trace(student, x, uniform()(student.path, steps), named("ddim")[0]))]
        ways = torch.stack(ways).detach().numpy()
        place.scatter(*truth[:1500].T, s=2, color="#d0d4dc")
        place.plot(ways[:, :, 0], ways[:, :, 1], color="#4063a8", linewidth=0.7, alpha=0.8)
        place.scatter(*ways[0].T, s=6, color="#888888")
        place.scatter(*ways[-1].T, s=10, color="#c44536", zorder=3)
        place.set_title(title), place.set_xlim(-2.6, 2.6), place.set_ylim(-2.6, 2.6), place.set_aspect("equal")
        place.set_xticks([]), place.set_yticks([])
    picture.savefig(ROOT / "docs/figures/trajectories.png", dpi=80)


if __name__ == "__main__":
    plt.switch_backend("Agg")
    main()
