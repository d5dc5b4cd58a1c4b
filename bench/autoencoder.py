"""What an autoencoder keeps of pictures it never saw, against principal components of as many numbers.

    python bench/autoencoder.py --model runs/emoji-codec/model.safetensors --out bench/results/autoencoder.csv

Data, size and the pictures that were held out are those of the model's own recipe; --data names the file where it has moved.
Rows: the autoencoder; principal components of squares of 8x8 pixels, and of whole pictures, as many for a picture as the latent has
numbers, all kept in float32; components of whole pictures that have as many weights as the autoencoder, and so fewer numbers; and
the pictures themselves. Rows of other data in the file stay. PSNR in dB, mean over pictures; KID x 1000 (EfficientNet-Lite0)
of what is rebuilt to as many pictures of the training set, where the row of the pictures themselves is what no codec can better.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro

from reverie.data.sets import open_pictures
from reverie.errors import UserError
from reverie.measure.distances import kid
from reverie.measure.features import imagenet
from reverie.systems.weights import load_any
from reverie.train.autoencoding import components, psnr
from reverie.train.jobs import to_pictures, to_signal

SQUARE = 8
COLUMNS = ("codec", "data", "held out", "numbers", "weights", "steps", "psnr", "kid x 1000", "deviation")


@dataclass
class Bench:
    model: Path
    data: str = ""
    """Where the recipe's data is now; '' = where it was."""
    basis: int = 4000
    """Pictures of the training set that the components of whole pictures are made of."""
    out: Path = Path("bench/results/autoencoder.csv")


@torch.no_grad()
def by_codec(codec, images):
    return np.concatenate(
        [to_pictures(codec.decode(codec.encode(to_signal(images[i : i + 32])))) for i in range(0, len(images), 32)]
    )


def by_squares(train, images, numbers):
    into, back, mean = components(train, SQUARE, numbers * SQUARE**2 // (images.shape[2] * images.shape[3]))
    x = F.pixel_unshuffle(to_signal(images), SQUARE).movedim(1, -1)
    return to_pictures(F.pixel_shuffle(((x - mean) @ into.T @ back.T + mean).movedim(-1, 1), SQUARE))


def by_pictures(train, images, *numbers):
    """The components through the products of pictures, of which there are fewer than pixels; for each of some numbers of them."""
    x = to_signal(train).flatten(1)
    mean = x.mean(0)
    values, vectors = torch.linalg.eigh((x - mean) @ (x - mean).T)
    most = max(numbers)
    top = vectors[:, -most:] / values[-most:].clamp_min(1e-6).sqrt()
    axes = top.T @ (x - mean)  # (numbers, pixels), orthonormal, the largest last
    told = (to_signal(images).flatten(1) - mean) @ axes.T
    return [to_pictures((told[:, -n:] @ axes[-n:] + mean).view(images.shape)) for n in numbers]


def main(bench):
    part = load_any(bench.model)
    if part.codec is None or "recipe" not in part.about:
        raise UserError(f"{bench.model} holds no autoencoder with its recipe: name one that `reverie train autoencoder` wrote")
    recipe = part.about["recipe"]
    pictures = open_pictures(recipe["source"], bench.data or recipe["data"], recipe["size"])
    train, held = pictures.split(min(recipe["training"]["holdout"], max(1, len(pictures) // 10)))
    numbers = int(np.prod(part.codec.shape(recipe["size"], recipe["size"])))
    rng = np.random.default_rng(0)
    basis = train.images[np.sort(rng.permutation(len(train))[: bench.basis])]
    pixels, weights = held.images[0].size, sum(p.numel() for p in part.codec.parameters())
    few = max(1, weights // pixels)
    whole, light = by_pictures(basis, held.images, min(numbers, len(basis) - 1), min(few, len(basis) - 1))
    rebuilt = {
        part.about["name"]: (by_codec(part.codec, held.images), numbers, weights),
        f"components of {SQUARE}x{SQUARE} squares": (
            *(by_squares(train.images, held.images, numbers), numbers),
            numbers * SQUARE**4 * held.images.shape[1] // (held.images.shape[2] * held.images.shape[3]),
        ),
        "components of pictures": (whole, numbers, numbers * pixels),
        "as few as have the weights": (light, few, few * pixels),
        "the pictures": (held.images, pixels, 0),
    }
    features = imagenet()
    real = features(train.images[rng.permutation(len(train))[: len(held)]])
    rows = others(bench.out, pictures.name)
    for name, (images, count, weight) in rebuilt.items():
        distance, spread = kid(features(images), real, size=max(2, len(held) // 2))
        steps = part.about.get("steps", "") if name == part.about["name"] else ""
        measured = (f"{psnr(held.images, images).mean():.2f}", f"{1000 * distance:.3f}", f"{1000 * spread:.3f}")
        rows.append((name, pictures.name, len(held), count, weight, steps, *measured))
        print(*rows[-1], flush=True)
    bench.out.parent.mkdir(parents=True, exist_ok=True)
    with bench.out.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


def others(path, data):
    """The rows of a file that are of other data."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [tuple(row.get(name, "") for name in COLUMNS) for row in csv.DictReader(file) if row["data"] != data]


if __name__ == "__main__":
    main(tyro.cli(Bench))
