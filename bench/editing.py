"""What the tasks that change pictures do to those of the shipped model: strengths, seams, the way back, words that are exchanged.

    python bench/editing.py

strength: real avatars, edited towards their own caption with another hair colour; change: rms of all pixels in levels (0 to 255);
    asked, kept: share of pictures in which the shipped reader sees the new hair colour, and the other attributes as they were.
seam: a box of real avatars drawn anew under their own caption, by replacement and with 2 and 4 resamplings, at as many
    evaluations too; seam: how much more neighbours differ across the edge of the box than beside it,
    less that of the real pictures there, in levels; inside: mean rms to the real picture in the box.
inversion: pictures of the model traced back and drawn again (guidance 1, 40 steps): rms in levels.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image

import reverie
from reverie.data.avatars import avatars
from reverie.systems.shipped import open_reader
from reverie.tasks import Edit, Invert

STRENGTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass
class Bench:
    count: int = 24
    steps: int = 20
    out: Path = Path("bench/results/editing.csv")


def pixels(images):
    return np.stack([np.asarray(image).astype(np.float64) for image in images])


def rms(a, b):
    """Per picture, in levels."""
    return np.sqrt(np.square(a - b).reshape(len(a), -1).mean(1))


def said(a):
    """A plain caption of an avatar."""
    glasses = "no glasses" if a["glasses"] == "none" else a["glasses"].replace("-", " ")
    beard = "" if a["facial_hair"] == "none" else f", {a['facial_hair'].replace('-', ' ')}"
    look = f"a {a['expression']} person with {a['skin']} skin, {a['hair_color']} {a['hair']} hair, {glasses}{beard}"
    return f"{look}, {a['clothing_color']} {a['clothing']}, {a['style']} style"


def sources(count):
    """Held-out avatars with hair of a colour, and the same asked for with green hair."""
    held = avatars().split(256)[1]
    rows = [i for i, a in enumerate(held.attributes) if a.get("hair_color", "green") != "green"][:count]
    images = [Image.fromarray(np.ascontiguousarray(held.images[i].transpose(1, 2, 0))) for i in rows]
    return images, [held.attributes[i] for i in rows]


def strengths(system, bench, put):
    images, known = sources(bench.count)
    reader, real = open_reader("avatars"), pixels(images)
    wanted = [a | {"hair_color": "green"} for a in known]
    for strength in STRENGTHS:
        made = [
            system.generate(said(w), tasks=[Edit(image, strength)], seed=k, steps=bench.steps)[0]
            for k, (image, w) in enumerate(zip(images, wanted, strict=True))
        ]
        read = reader.read(np.stack([np.asarray(image).transpose(2, 0, 1) for image in made]))
        asked = np.mean([r["hair_color"] == "green" for r in read])
        kept = np.mean([r[n] == a[n] for r, a in zip(read, known, strict=True) for n in r if n != "hair_color" and n in a])
        put("strength", f"{strength:g}", change=rms(pixels(made), real).mean(), asked=asked, kept=kept)


def edge(x, box):
    """How much more neighbours differ across the edge of a box than beside it, in levels; x (N, H, W, 3)."""
    top, left, bottom, right = box
    down, across = abs(np.diff(x, axis=1)), abs(np.diff(x, axis=2))  # entry k lies between places k and k + 1

    def excess(steps, k):
        return steps[k] - (steps[k - 1] + steps[k + 1]) / 2

    rows = [np.moveaxis(down[:, :, left:right], 1, 0)] * 2
    columns = [np.moveaxis(across[:, top:bottom], 2, 0)] * 2
    sides = zip((*rows, *columns), (top - 1, bottom - 1, left - 1, right - 1), strict=True)
    return float(np.mean([excess(steps, k).mean() for steps, k in sides]))


def seams(system, bench, put):
    images, known = sources(bench.count)
    real, box = pixels(images), (18, 14, 46, 50)  # between the squares of pixel-art
    mask = Image.new("L", images[0].size, 0)
    mask.paste(255, (box[1], box[0], box[3], box[2]))
    for times, steps in ((0, bench.steps), (0, 5 * bench.steps), (2, bench.steps), (4, bench.steps)):
        made = [
            system.inpaint(image, mask, said(a), resample=times, seed=k, steps=steps)[0]
            for k, (image, a) in enumerate(zip(images, known, strict=True))
        ]
        x = pixels(made)
        assert (x[:, : box[0]] == real[:, : box[0]]).all() and (x[:, :, box[3] :] == real[:, :, box[3] :]).all()
        inside = rms(x[:, box[0] : box[2], box[1] : box[3]], real[:, box[0] : box[2], box[1] : box[3]]).mean()
        name = f"{'replacement' if not times else f'{times} resamplings'}, {steps * (times + 1)} evaluations"
        put("seam", name, seam=edge(x, box) - edge(real, box), inside=inside)


def inversion(system, bench, put):
    _, known = sources(8)
    texts = [said(a) for a in known]
    options = {"guidance": 1.0, "steps": 40, "solver": "ddim"}
    first = [system.generate(text, seed=k, **options)[0] for k, text in enumerate(texts)]
    again = [system.generate(text, tasks=[Invert(image, text)], **options)[0] for image, text in zip(first, texts, strict=True)]
    put("inversion", "the same words", change=rms(pixels(again), pixels(first)).mean())


FIELDS = ("what", "setting", "pictures", "change", "asked", "kept", "seam", "inside")


def main(bench):
    torch.set_num_threads(1)
    system = reverie.load("reverie-avatars")
    rows = []

    def put(what, setting, **values):
        row = {"what": what, "setting": setting, "pictures": 8 if what == "inversion" else bench.count}
        rows.append(row | {k: round(float(v), 3) for k, v in values.items()})
        print(rows[-1], flush=True)

    strengths(system, bench, put)
    seams(system, bench, put)
    inversion(system, bench, put)
    with bench.out.open("w") as file:
        table = csv.DictWriter(file, FIELDS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main(tyro.cli(Bench))
