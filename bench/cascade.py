"""Avatars of 128 px by a cascade, in the training time of one net on the pixels of 128 (bench/latent.py).

    reverie data avatars --count 10000 --size 128 --out avatars-128.safetensors
    python bench/cascade.py train --data avatars-128.safetensors

The three stages of `systems/avatars/enlarging.py` share `--seconds` of a processor (`time.process_time` of the training itself,
as there): 40 per cent words into 32 px, 25 per cent 32 into 64 px, 35 per cent 64 into 128. `plain` is the middle stage once more,
without noise on what it sees. Each goes on where it stopped; what is measured, and how, is as in bench/latent.py.
"""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro

from reverie.systems.recipes import RECIPES
from reverie.tasks.train import Session

SHARES = {"avatars-32": 0.4, "avatars-64": 0.25, "avatars-128": 0.35, "plain": 0.25}


@dataclass
class Bench:
    what: tyro.conf.Positional[Literal["train"]]
    data: str
    pixels: str = "runs/latent-bench/pixels"
    folder: Path = Path("runs/cascade-bench")
    seconds: float = 2800.0
    samples: int = 100
    out: Path = Path("bench/results/cascade.csv")


def recipe(name, bench):
    """What is trained."""
    ours = RECIPES["avatars-64" if name == "plain" else name]
    how = replace(ours.training, steps=None, minutes=1e5, snapshots=0, save_minutes=5, validate_minutes=1e5)
    ours = replace(ours, training=how)
    if name == "avatars-128":
        return replace(ours, data=bench.data)
    return replace(ours, damages=("small(factor=2, noise=0)",)) if name == "plain" else ours


def train(name, bench):
    """One stage, whose length is fixed by the speed of its steps until the rate begins to fall; it goes on where it stopped."""
    folder, seconds = bench.folder / name, SHARES[name] * bench.seconds
    note = folder / "spent.json"
    before = json.loads(note.read_text()) if note.exists() else {"cpu_seconds": 0.0, "done": False}
    if before["done"]:
        return
    session = Session.open(recipe(name, bench), folder, resume=True)
    begin, decay = time.process_time() - before["cpu_seconds"], session.run.training.decay
    for now in session:
        spent = time.process_time() - begin
        if now.step % 50 == 0 and now.step < (1 - decay) * (session.run.steps or 1e9):
            session.run.steps = max(now.step + 1, int(now.step * seconds / spent))
        if now.saved:
            note.write_text(json.dumps({"cpu_seconds": spent, "steps": now.step, "done": False}))
        if now.step % 50 == 0:
            print(name, now.step, session.run.steps, f"{now.loss:.4f} {spent:.0f} of {now.seconds:.0f} s", flush=True)
    spent = time.process_time() - begin
    note.write_text(json.dumps({"cpu_seconds": spent, "steps": session.run.step, "done": session.run.step >= session.run.steps}))


def main(bench):
    if bench.what == "train":
        for name in SHARES:
            train(name, bench)


if __name__ == "__main__":
    main(tyro.cli(Bench))
