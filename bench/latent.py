"""Avatars of 128 px in the same training time: in latents, and in patches of pixels.

    reverie data avatars --count 10000 --size 128 --out avatars-128.safetensors
    reverie train avatars-autoencoder --data avatars-128.safetensors
    python bench/latent.py latent --data avatars-128.safetensors    (and the same with `pixels`)
    python bench/latent.py measure --data avatars-128.safetensors

Both denoisers are one transformer (that of `avatars-latent`) that attends to 64 places of a picture and to ten attributes, so
a step costs the same in both but for the first and last layer:

latent    2x2 places of the autoencoder's 16x16, rectified flow, as the recipe is
pixels    16x16 pixels of the picture itself; the net says the clean picture, and its error is weighed as that of the velocity, with
          more noise in training, as such nets need (Li and He, arXiv:2511.13720)

Time is what the training itself took of a processor (`time.process_time`), without what is made ready before; the length of a
run is fixed by the speed of its steps, anew until the rate begins to fall. Pictures: the same prompts and seeds, guidance as said,
measured as `reverie evaluate` measures (its reader makes pictures smaller by itself); KID x 1000 and Frechet in EfficientNet-Lite0.
"""

import csv
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro

from reverie.data.avatars import avatars
from reverie.data.sets import open_pictures
from reverie.data.sheet import sheet
from reverie.measure.agreement import shown
from reverie.measure.features import imagenet
from reverie.measure.prompts import avatar_prompts
from reverie.measure.report import Yardstick, noise, table
from reverie.systems.recipes import RECIPES
from reverie.systems.shipped import open_reader
from reverie.systems.weights import load
from reverie.tasks.evaluate import array
from reverie.tasks.generate import run, to_images
from reverie.tasks.settings import settle
from reverie.tasks.train import Session
from reverie.train.jobs import to_signal

DENOISERS = ("latent", "pixels")


@dataclass
class Bench:
    what: tyro.conf.Positional[Literal["latent", "pixels", "measure"]]
    data: str
    codec: str = "runs/avatars-autoencoder"
    folder: Path = Path("runs/latent-bench")
    seconds: float = 300.0
    """Of a processor, for each of the two."""
    samples: int = 100
    steps: int = 20
    guidance: float = 3.0
    out: Path = Path("bench/results/latent.csv")
    sheet: Path = Path("docs/latent.png")


def recipe(bench):
    """What is trained."""
    ours = RECIPES["avatars-latent"]
    how = replace(ours.training, minutes=1e5, snapshots=0, save_minutes=1e5, validate_minutes=1e5)
    told = {"data": bench.data, "training": how}
    if bench.what == "latent":
        return replace(ours, codec=bench.codec, **told)
    objective = replace(
        ours.objective, rule="x0()", weight="edm_weight(sigma_data=1)", times="logit_normal(mean=0.8, deviation=0.8)"
    )
    return replace(ours, shrink=1, codec="", net=replace(ours.net, in_channels=3, patch=16), objective=objective, **told)


def train(bench):
    session = Session.open(recipe(bench), bench.folder / bench.what, resume=False)
    begin, decay = time.process_time(), session.run.training.decay
    for now in session:
        spent = time.process_time() - begin
        if now.step % 50 == 0 and now.step < (1 - decay) * (session.run.steps or 1e9):
            session.run.steps = max(now.step + 1, int(now.step * bench.seconds / spent))
        if now.step % 50 == 0:
            print(now.step, session.run.steps, f"{now.loss:.4f} {spent:.0f} of {now.seconds:.0f} s", flush=True)
    spent = {"cpu_seconds": round(time.process_time() - begin, 1), "seconds": round(session.run.seconds, 1)}
    (bench.folder / bench.what / "spent.json").write_text(json.dumps(spent | {"steps": session.run.step}))


def drawn(system, prompts, bench, kept):
    """Pictures of the prompts, and how long each took; those that were drawn before are kept in a file."""
    if not kept.exists():
        settings = settle(system, prompts, {"steps": bench.steps, "guidance": bench.guidance, "batch": 50})
        begin = time.process_time()
        made = [picture for event in run(system, settings) if isinstance(event, list) for picture in event]
        np.savez(kept, images=array(made), seconds=(time.process_time() - begin) / len(made))
    found = np.load(kept)
    return found["images"], float(found["seconds"])


@torch.no_grad()
def back(codec, images):
    """What becomes of real pictures that go through a codec."""
    return np.concatenate([array_of(codec.decode(codec.encode(to_signal(images[i : i + 32])))) for i in range(0, len(images), 32)])


def array_of(x):
    return np.stack([np.asarray(image).transpose(2, 0, 1) for image in to_images(x)])


def measure(bench):
    train_set, floor = open_pictures("avatars", bench.data, 128).split(256)
    real = train_set.take(np.random.default_rng(1).permutation(len(train_set))[: bench.samples])
    floor, asked = floor.take(np.arange(bench.samples)), avatar_prompts(2 * bench.samples, avoid=avatars().attributes or ())[::2]
    wanted, prompts, reader = [p.attributes for p in asked], [p.text for p in asked], open_reader("avatars")
    yard = Yardstick(imagenet(), real.images)
    rows, costs, shows = [], {}, []

    def put(name, images, asked, **more):
        rows.append(yard.row(name, images, shown(images, asked, reader).overall, **more))
        print(table(rows), flush=True)

    for name in (n for n in DENOISERS if (bench.folder / n / "spent.json").exists()):
        system, spent = (
            load(bench.folder / name / "model.safetensors"),
            json.loads((bench.folder / name / "spent.json").read_text()),
        )
        costs[name] = (sum(p.numel() for p in system.denoiser.parameters()), spent["steps"], spent["cpu_seconds"])
        images, each = drawn(system, prompts, bench, bench.folder / name / f"drawn-{bench.samples}.npz")
        shows += to_images(to_signal(images[:8]))
        put(name, images, wanted, nfe=bench.steps, seconds=each)
        if name == "latent":
            put("real through the autoencoder", back(system.codec, floor.images), floor.attributes)
    put("real", floor.images, floor.attributes)
    put("noise", noise(floor.images), wanted)
    write(bench, rows, costs)
    sheet(shows, columns=8, left=list(costs), above=prompts[:8]).quantize(128).save(bench.sheet, optimize=True)


def write(bench, rows, costs):
    with bench.out.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(
            (
                *("pictures", "n", "kid x 1000", "frechet", "precision", "recall", "agreement"),
                *("steps", "guidance", "cpu s a picture", "parameters", "training steps", "training cpu s"),
            )
        )
        for r in rows:
            made = (bench.steps, bench.guidance, f"{r.seconds:.3f}", *costs[r.name]) if r.name in costs else ("",) * 6
            measured = (f"{r.kid:.2f}", f"{r.frechet:.2f}", f"{r.precision:.3f}", f"{r.recall:.3f}", f"{r.agreement:.4f}")
            out.writerow((r.name, r.n, *measured, *made))


if __name__ == "__main__":
    asked = tyro.cli(Bench)
    measure(asked) if asked.what == "measure" else train(asked)
