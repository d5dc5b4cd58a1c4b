"""Avatars of 128 px by a cascade, in the training time of one net on the pixels of 128 (bench/latent.py).

    reverie data avatars --count 10000 --size 128 --out avatars-128.safetensors
    python bench/cascade.py train --data avatars-128.safetensors
    python bench/cascade.py measure --data avatars-128.safetensors

The three stages of `systems/avatars/enlarging.py` share `--seconds` of a processor (`time.process_time` of the training itself,
as there; on another processor, as long as its 7,481 steps would take): 55 per cent words into 32 px, 18 per cent 32 into 64 px,
27 per cent 64 into 128. `plain` is the middle stage once more, without noise on what it sees. Each goes on where it stopped; what
is measured, and how, is as in bench/latent.py, whose row of the single net stands here again.

The last rows are of the middle stage: held-out pictures, made small, spoilt as said, and enlarged to 64 px by the stage as it is
told of noise (`told`, at the level that does best on pictures spoilt so, of LEVELS), and by the plain one. psnr, in dB, is to the
picture; of pictures that a model drew, there is none.
"""

import csv
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from PIL import Image, ImageFilter

from reverie.data.avatars import avatars
from reverie.data.damages import stored
from reverie.data.sets import open_pictures
from reverie.data.sheet import sheet
from reverie.measure.agreement import shown
from reverie.measure.features import imagenet
from reverie.measure.prompts import avatar_prompts
from reverie.measure.report import Yardstick
from reverie.systems.recipes import RECIPES
from reverie.systems.shipped import open_reader
from reverie.systems.weights import load
from reverie.tasks.cascade import Enlarge, cascade
from reverie.tasks.generate import Picture, Preview, run, to_images
from reverie.tasks.settings import settle
from reverie.tasks.train import Session
from reverie.train.jobs import to_signal

FIELDS = ("pictures", "n", "kid x 1000", "frechet", "agreement", "psnr", "level", "evaluations", "cpu s a picture")
LEVELS = (0.0, 0.1, 0.2, 0.3)
SHARES = {"avatars-32": 0.55, "avatars-64": 0.18, "avatars-128": 0.27, "plain": 0.18}


@dataclass
class Bench:
    what: tyro.conf.Positional[Literal["train", "measure"]]
    data: str
    single: Path = Path("bench/results/latent.csv")
    folder: Path = Path("runs/cascade-bench")
    seconds: float = 2800.0
    samples: int = 100
    out: Path = Path("bench/results/cascade.csv")
    sheet: Path = Path("docs/cascade.png")


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


def finished(events: Iterable[Preview | list[Picture]]) -> list[Picture]:
    """What is drawn in the end."""
    return [picture for event in events if isinstance(event, list) for picture in event]


def array(images):
    """uint8 (N, C, H, W)."""
    return np.stack([np.asarray(image).transpose(2, 0, 1) for image in images])


def spoilt(drawn):
    """By name, how small pictures (N, C, h, w) in [-1, 1] are spoilt; `drawn`: such as a model drew them, which need it not."""
    noise = torch.Generator().manual_seed(0)

    def blurred(x):
        return to_signal(array([image.filter(ImageFilter.GaussianBlur(0.7)) for image in to_images(x)]))

    return {
        "as they are": lambda x: x,
        "noise 0.1": lambda x: x + 0.1 * torch.randn(x.shape, generator=noise),
        "noise 0.2": lambda x: x + 0.2 * torch.randn(x.shape, generator=noise),
        "jpeg 40": lambda x: torch.stack([stored(one, 40) for one in x]),
        "blurred": blurred,
        "drawn by avatars-32": lambda x: to_signal(drawn),
    }


def enlarged(system, small, level, said):
    """uint8 (N, C, 64, 64) of small pictures in [-1, 1]."""
    settings = settle(system, said, {"batch": 50})
    return array([p.image for p in finished(run(system, settings, [Enlarge(tuple(to_images(small)), level)]))])


def psnr(made, truth):
    gap = np.square(made.astype(float) - truth).mean((1, 2, 3)) / 255**2
    return float(-10 * np.log10(gap).mean())


def measure_enlarging(bench, drawn):
    """Rows of the middle stage with noise on what it saw in training, and without."""
    known, held = avatars().split(256)
    yard, truth = Yardstick(imagenet(), known.images[: bench.samples]), held.images[: bench.samples]
    small = torch.nn.functional.avg_pool2d(to_signal(truth), 2)
    rows = []
    for name, spoil in spoilt(drawn).items():
        given = spoil(small).clamp(-1, 1)
        for stage, levels in (("avatars-64", LEVELS), ("plain", (0.0,))):
            system = load(bench.folder / stage / "model.safetensors")
            tried = []
            for level in levels:
                made = enlarged(system, given, level, [""] * len(given))
                row, far = yard.row(f"{stage}: {name}", made), "" if "drawn" in name else psnr(made, truth)
                tried.append((row.name, row.n, row.kid, row.frechet, "", far, level, system.defaults.steps, ""))
            rows.append(min(tried, key=lambda row: row[2] if row[5] == "" else -row[5]))
            print(*rows[-1], flush=True)
    return rows


def measure(bench):
    train_set, floor = open_pictures("avatars", bench.data, 128).split(256)
    real = train_set.take(np.random.default_rng(1).permutation(len(train_set))[: bench.samples])
    floor, asked = floor.take(np.arange(bench.samples)), avatar_prompts(2 * bench.samples, avoid=avatars().attributes or ())[::2]
    wanted, prompts, reader = [p.attributes for p in asked], [p.text for p in asked], open_reader("avatars")
    yard, rows, shows = Yardstick(imagenet(), real.images), [], []

    def put(name, images, asked, evaluations="", seconds=""):
        row = yard.row(name, images, shown(images, asked, reader).overall)
        rows.append((name, row.n, row.kid, row.frechet, row.agreement, "", "", evaluations, seconds))
        print(*rows[-1], flush=True)

    chain = [load(bench.folder / name / "model.safetensors") for name in ("avatars-32", "avatars-64", "avatars-128")]
    begin = time.process_time()
    settings = settle(chain[0], prompts, {"batch": 50})
    small = array([p.image for p in finished(run(chain[0], settings))])
    large = [Image.fromarray(one.transpose(1, 2, 0)).resize((128, 128), Image.Resampling.BICUBIC) for one in small]
    put("avatars-32, enlarged by interpolation", array(large), wanted, chain[0].defaults.steps)
    shows += large[:8]
    begin, made = time.process_time(), finished(cascade(chain, settings))
    each, whole = (time.process_time() - begin) / len(made), array([p.image for p in made])
    put("cascade", whole, wanted, made[0].nfe, each)
    shows += to_images(to_signal(whole[:8]))
    single = next(row for row in csv.DictReader(bench.single.open()) if row["pictures"] == "pixels")
    rows.append(("one net on pixels", *(single[k] for k in ("n", "kid x 1000", "frechet", "agreement")), "", "", 20, ""))
    put("real", floor.images, floor.attributes)
    rows += measure_enlarging(bench, small)
    with bench.out.open("w", newline="") as file:
        csv.writer(file).writerows([FIELDS, *([f"{v:.4g}" if isinstance(v, float) else v for v in row] for row in rows)])
    left = ["its 32 px, enlarged by interpolation", "cascade"]
    sheet(shows, columns=8, left=left, above=prompts[:8]).quantize(128).save(bench.sheet, optimize=True)


def main(bench):
    if bench.what == "measure":
        measure(bench)
    else:
        for name in SHARES:
            train(name, bench)


if __name__ == "__main__":
    main(tyro.cli(Bench))
