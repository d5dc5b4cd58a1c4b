"""What a net that learnt to mend gives back: held-out avatars without colours, as JPEG, with a hole, or cut off, and made whole.

    reverie train avatars-repair --out runs/avatars-repair
    python bench/repair.py runs/avatars-repair

Damages are those of the training, drawn anew. psnr (dB) and distance (`measure/perceptual.py`) are to the picture itself, mean over
pictures; where much is missing several pictures are right, and kid x 1000 in EfficientNet-Lite0 to other held-out pictures says
whether what was drawn looks like one. Rows `damaged` are what the net was shown. Rows of the same run are replaced.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image
from rows import put

from reverie.card import parse, rebuild
from reverie.data.avatars import avatars
from reverie.data.damages import DAMAGES
from reverie.data.sheet import sheet
from reverie.measure.distances import kid
from reverie.measure.features import imagenet
from reverie.measure.perceptual import perceptual
from reverie.systems.weights import load_any
from reverie.tasks import generate
from reverie.tasks.mend import Mend
from reverie.train.jobs import to_pictures, to_signal

KEY = ("run", "damage", "row", "n", "steps")
FIELDS = (*KEY, "psnr", "distance", "kid x 1000")
WAYS = ("grey()", "jpeg(least=5, most=40)", "hole()", "uncrop()")
SHOWN = 3
"""Pictures of each damage in the figure."""


@dataclass
class Bench:
    run: tyro.conf.Positional[Path]
    count: int = 64
    steps: int = 20
    out: Path = Path("bench/results/repair.csv")
    figure: Path = Path("docs/figures/repair.png")


def mended(bench, system, pixels, plane):
    """uint8 (N, C, H, W): each picture by itself, seed k for picture k, as `reverie restore` does."""
    made = []
    for k, (one, where) in enumerate(zip(to_pictures(pixels), plane[:, 0], strict=True)):
        mask = Image.fromarray((255 * where).byte().numpy()) if where.any() else None
        told = Mend(Image.fromarray(np.ascontiguousarray(one.transpose(1, 2, 0))), mask)
        made.append(np.asarray(generate(system, "", seed=k, steps=bench.steps, tasks=[told])[0]).transpose(2, 0, 1))
    return np.stack(made)


def main(bench):
    torch.set_num_threads(1)
    system, see, apart = load_any(bench.run / "model.safetensors"), imagenet(), perceptual()
    held = avatars().split(256)[1].images
    real, far = held[: bench.count], see(held[bench.count :])
    columns = []
    for way in WAYS:
        pixels, plane = rebuild(parse(way), DAMAGES, "damage")(to_signal(real), np.random.default_rng(0))
        shown = to_pictures(pixels)
        made = mended(bench, system, pixels, plane)
        for row, pictures in (("damaged", shown), ("mended", made)):
            wrong = np.square((pictures.astype(float) - real) / 255).mean((1, 2, 3))
            psnr = float(np.mean(-10 * np.log10(np.maximum(wrong, 1e-10))))
            far_off = float(apart(to_signal(pictures), to_signal(real)).mean())
            key = {"run": bench.run.name, "damage": way, "row": row, "n": bench.count, "steps": bench.steps}
            put(
                bench.out, FIELDS, KEY, [key | {"psnr": psnr, "distance": far_off, "kid x 1000": 1000 * kid(far, see(pictures))[0]}]
            )
        columns += [[shown[k], made[k], real[k]] for k in range(SHOWN)]
    images = [Image.fromarray(np.ascontiguousarray(column[row].transpose(1, 2, 0))) for row in range(3) for column in columns]
    sheet(images, columns=len(columns), scale=1, gap=4).save(bench.figure)


if __name__ == "__main__":
    main(tyro.cli(Bench))
