"""From one picture, in seconds: an encoder's word and some tuning, beside learning from scratch.

    reverie train avatars-subject --out runs/avatars-subject
    python bench/one_picture.py runs/avatars-subject

Held-out avatars, one at a time, are learnt by each way, without words, and drawn from four seeds by the word alone (by no words,
where there is none). same: attributes of the picture that the shipped reader finds again; distance: of `measure/perceptual.py` to
it. asked: of the attributes but the hair's colour, and another hair colour that is said, how the latter is heeded. seconds: of the
wall, from the command's beginning to the file, this bench's imports left out. `word` is what the encoder says, without tuning;
`nothing` the model without a picture; `another` another picture, the floor. Rows of the same run are replaced.
"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from adapt import images
from image_prompt import COLOUR, recoloured
from PIL import Image
from rows import put
from subject import opened

from reverie.cli.adapt import Adapt
from reverie.data.avatars import avatars
from reverie.measure.agreement import agreement
from reverie.measure.perceptual import perceptual
from reverie.systems.shipped import open_model, open_reader
from reverie.tasks.train import Session
from reverie.train.jobs import to_signal

KEY = ("encoder", "way", "seconds asked", "rate", "n")
FIELDS = (*KEY, "steps", "seconds", "same", "asked", "distance")


@dataclass
class Bench:
    encoder: tyro.conf.Positional[Path]
    pictures: int = 12
    seconds: float = 10.0
    tuned: float = 6.0
    threads: int = 2
    folder: Path = Path("runs/one-picture")
    out: Path = Path("bench/results/one-picture.csv")


def ways(bench):
    """What is asked of `reverie adapt`, by name."""
    begun = {"word": "sks", "begin": str(bench.encoder)}
    return {
        "word": ("encoder", {**begun, "rank": 0, "updates": 1, "rate": 1e-9}),
        "encoder": ("encoder", {**begun, "minutes": bench.tuned / 60}),
        "encoder, word alone": ("encoder", {**begun, "rank": 0, "minutes": bench.tuned / 60, "rate": 2e-2}),
        "inversion": ("inversion", {"word": "sks", "minutes": bench.seconds / 60}),
        "lora": ("lora", {"minutes": bench.seconds / 60}),
        "lora, fast": ("lora", {"minutes": bench.seconds / 60, "rate": 5e-3}),
    }


def learnt(bench, name, method, how, picture, k):
    """(what draws it, steps, seconds)."""
    data, folder = bench.folder / f"picture-{k}", bench.folder / f"{name}-{k}".replace(", ", "-").replace(" ", "-")
    data.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).save(data / "0.png")
    if "begin" not in how:  # ways that hold one picture out see this one twice
        Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).save(data / "1.png")
    else:
        (data / "1.png").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    begin = time.perf_counter()
    for now in Session.open(Adapt(method=method, data=str(data), **how).recipe(), folder, resume=False):
        steps = now.step
    return opened(folder)[0], steps, time.perf_counter() - begin


def main(bench):
    torch.set_num_threads(bench.threads)
    held, reader, apart = avatars().split(256)[1], open_reader("avatars"), perceptual()
    rows = [k for k in range(len(held)) if COLOUR in held.attributes[k]][: bench.pictures]
    own, colours = [held.attributes[k] for k in rows], sorted({a[COLOUR] for a in held.attributes if COLOUR in a})
    changed = [recoloured(a, colours) for a in own]

    def judged(name, drawn, redrawn, more):
        same = agreement([a for a in own for _ in range(4)], reader.read(np.concatenate(drawn)), reader.values).overall
        row = {"encoder": bench.encoder.name, "way": name, "n": len(rows), "same": same, **more}
        gaps = [
            float(apart(to_signal(held.images[k : k + 1]), to_signal(p[None])))
            for k, ps in zip(rows, drawn, strict=True)
            for p in ps
        ]
        if redrawn:
            new = [{COLOUR: a[COLOUR]} for a in changed for _ in range(4)]
            row["asked"] = agreement(new, reader.read(np.concatenate(redrawn)), reader.values).overall
        put(bench.out, FIELDS, KEY, [row | {"distance": float(np.mean(gaps))}])

    blank = {"seconds asked": "", "rate": ""}
    judged("another", [np.repeat(held.images[k + 1 : k + 2], 4, 0) for k in rows], None, blank)
    base = open_model("reverie-avatars")
    judged("nothing", [images(base, [""] * 4, 10 * k) for k in rows], None, blank)
    for name, (method, how) in ways(bench).items():
        drawn, redrawn, took, steps = [], [], [], []
        word = how.get("word", "")
        for k, new in zip(rows, changed, strict=True):
            system, count, seconds = learnt(bench, name, method, how, held.images[k], k)
            drawn.append(images(system, [word] * 4, 10 * k))
            redrawn.append(images(system, [f"{new[COLOUR]} hair" + f", {word}" * bool(word)] * 4, 10 * k))
            took.append(seconds)
            steps.append(count)
        asked = {"seconds asked": round(60 * how.get("minutes", 0)), "rate": how.get("rate", "")}
        judged(name, drawn, redrawn, asked | {"steps": float(np.mean(steps)), "seconds": float(np.mean(took))})


if __name__ == "__main__":
    main(tyro.cli(Bench))
