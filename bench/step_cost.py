"""What a step costs beside its arithmetic: ours and diffusers' against the same sums in bare torch, interleaved in one run.

    python bench/step_cost.py --out bench/results/step-cost.json

The model is free (it returns a tensor that is there), so that only the step is measured. Bare: the sums of the step's own rows,
with weights that are known and no bookkeeping. Medians of the repeats, one thread, CPU.
"""

import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
import tyro

from reverie.process import grids, schedules
from reverie.solve import named, trace
from reverie.solve.linear import ready

SD = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PAIRS = {
    "euler": ("EulerDiscreteScheduler", {}),
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "dpmpp-2m": ("DPMSolverMultistepScheduler", {}),
    "unipc-2": ("UniPCMultistepScheduler", {}),
    "deis-3": ("DEISMultistepScheduler", {"solver_order": 3}),
    "lms": ("LMSDiscreteScheduler", {}),
}
STEPS = 20


@dataclass
class Bench:
    repeats: int = 40
    shapes: tuple[tuple[int, ...], ...] = ((1, 4, 64, 64), (4, 4, 64, 64), (4, 4, 128, 128))
    out: Path = Path("bench/results/step-cost.json")


class Free:
    """A model whose answers are there already."""

    def __init__(self, path, shape):
        self.path, self.answers, self.k = path, [torch.randn(shape) for _ in range(8)], 0

    def __call__(self, x, t, cond=None):
        self.k = (self.k + 1) % 8
        return self.answers[self.k]


def ours(solver, path, grid, x):
    model = Free(path, x.shape)

    def run():
        for _ in trace(model, x, grid, solver):
            pass

    return run


def bare(solver, path, grid, x):
    """The rows of every step, ready beforehand: multiplications and additions only."""
    times, plans, held = grid.tolist(), [], 0
    for k in range(STEPS):
        past = tuple(times[max(0, k - solver.memory) : k][::-1])
        plans.append(ready(solver, path, times[k], times[k + 1], past, 1 + held))
        held = len(plans[-1].keep) if solver.memory else 0
    model = Free(path, x.shape)

    def total(terms, basis):
        if not terms:
            return torch.zeros_like(basis[0])
        (c, place), *rest = terms
        if c == 1 and not rest:
            return basis[place]
        out = basis[place] * c
        for c, place in rest:
            out.add_(basis[place], alpha=c)
        return out

    def run():
        y, kept = x, ()
        with torch.no_grad():
            for plan in plans:
                basis = [y, *kept, model(y, None)]
                kept = tuple([total(terms, basis) for terms in plan.keep])
                basis += kept
                y = total(plan.out, basis)

    return run


def theirs(name, x):
    cls, more = PAIRS[name]
    scheduler = getattr(diffusers, cls)(**SD, **more)
    model = Free(None, x.shape)

    def run():
        scheduler.set_timesteps(STEPS)
        y = x
        for t in scheduler.timesteps:
            y = scheduler.step(model(scheduler.scale_model_input(y, t), t), t, y).prev_sample

    return run


def main(bench: Bench):
    torch.set_num_threads(1)
    path = schedules.scaled_linear_table()
    grid, found = grids.trailing()(path, STEPS), []
    for shape in bench.shapes:
        x = torch.randn(shape)
        for name in PAIRS:
            solver = named(name)[0]
            runs = {"bare": bare(solver, path, grid, x), "ours": ours(solver, path, grid, x), "diffusers": theirs(name, x)}
            seconds = {who: [] for who in runs}
            for k in range(bench.repeats + 2):
                for who, run in runs.items():
                    begin = time.perf_counter()
                    run()
                    if k > 1:
                        seconds[who].append(time.perf_counter() - begin)
            cost = {who: 1e6 * statistics.median(s) / STEPS for who, s in seconds.items()}
            row = {"shape": shape, "solver": name, "microseconds": cost}
            row |= {"to bare": cost["ours"] / cost["bare"], "to diffusers": cost["ours"] / cost["diffusers"]}
            found.append(row)
            print(shape, name, {k: round(v, 1) for k, v in cost.items()}, round(row["to bare"], 2), round(row["to diffusers"], 2))
    bench.out.write_text(json.dumps({"steps": STEPS, "repeats": bench.repeats, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Bench))
