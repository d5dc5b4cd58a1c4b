"""Whether the stress of one word changes what it names more than the rest.

    python bench/latent.py latent --data avatars-128.safetensors            (its model)
    reverie train avatars-scorer --out runs/avatars-scorer
    python bench/following.py --model runs/latent-bench/latent --scorer runs/avatars-scorer

Each prompt names one object and is drawn as it is, and following itself with the attention to that object times each weight.
inside, outside: the mean change in levels where the object is, and elsewhere; ratio, of the two. Where it is: the fifth of the
picture in which real avatars of the style with and without it differ most, on the average. named, rest: how much what the scorer
gives to the object's name, and to the other things said, has changed (nats, at little noise: sigma / alpha 0.1).
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
from reverie.data.sheet import sheet
from reverie.systems.guides import witness
from reverie.tasks.follow import Follow
from reverie.train.jobs import to_signal

OBJECTS = {"sunglasses": ("glasses", "sunglasses"), "beard": ("facial_hair", "beard"), "mohawk": ("hair", "mohawk")}
REST = ("smiling", "a red hoodie", "{style} style")
STYLES = ("avataaars", "micah", "open-peeps", "pixel-art")
SHOWN = ("avataaars", "pixel-art")
SAID = {
    "sunglasses": "a smiling man with sunglasses, a red hoodie, {style} style",
    "beard": "a smiling man with a beard, a red hoodie, {style} style",
    "mohawk": "a smiling man with a mohawk, a red hoodie, {style} style",
}
WEIGHTS = (-2.0, 0.0, 2.0, 4.0)
FIELDS = ("object", "weight", "n", "inside", "outside", "ratio", "named", "rest")


@dataclass
class Bench:
    model: Path
    scorer: Path
    count: int = 6
    """Pictures of each prompt."""
    out: Path = Path("bench/results/following.csv")
    sheet: Path = Path("docs/figures/stress.png")


def where(style, attribute, value, size):
    """bool (size, size): the fifth of the picture that an object changes most."""
    known = avatars()
    rows = [k for k, a in enumerate(known.attributes) if a["style"] == style]
    having = [known.attributes[k].get(attribute) == value for k in rows]
    images = known.images[rows].astype(np.float64)
    gap = abs(images[np.array(having)].mean(0) - images[~np.array(having)].mean(0)).mean(0)
    large = np.asarray(Image.fromarray(gap.astype(np.float32)).resize((size, size), Image.Resampling.BILINEAR))
    return large >= np.quantile(large, 0.8)


@torch.no_grad()
def scores(scorer, path, images, said):
    """(N,) of each sentence: log p of it, up to what does not depend on the pictures."""
    x = torch.nn.functional.avg_pool2d(to_signal(images), images.shape[-1] // scorer.net.config.size)
    t = path.t_of_lam(torch.tensor(10.0, dtype=torch.float64).log())
    n = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    x = path.mix(x, n, t.expand(len(x)))
    return [scorer.log_prob(x, t, path, scorer.wanted([one] * len(x))).numpy() for one in said]


def array(images):
    return np.stack([np.asarray(image).transpose(2, 0, 1) for image in images])


def main(bench):
    torch.set_num_threads(1)
    file = bench.model / "model.safetensors" if bench.model.is_dir() else bench.model
    system, scorer = reverie.load(str(file)), witness(str(bench.scorer))
    path, rows, shows = system.denoiser.path, [], []
    for word, (attribute, value) in OBJECTS.items():
        found = {weight: [] for weight in WEIGHTS}
        for style in STYLES:
            prompt = SAID[word].format(style=style)
            options = {"seed": 1, "count": bench.count, "batch": bench.count}
            plain = system.generate(prompt, **options)
            mask, first = where(style, attribute, value, plain[0].size[0]), array(plain)
            said = [word, *(one.format(style=style) for one in REST)]
            before, shown = scores(scorer, path, first, said), [plain[0]]
            for weight in WEIGHTS:
                made = system.generate(prompt, tasks=[Follow(prompt, stress={word: weight})], **options)
                change = abs(array(made).astype(float) - first).mean(1)
                moved = [now - old for now, old in zip(scores(scorer, path, array(made), said), before, strict=True)]
                inside, outside = change[:, mask].mean(1), change[:, ~mask].mean(1)
                found[weight] += list(zip(inside, outside, moved[0], np.mean(moved[1:], 0), strict=True))
                shown.append(made[0])
            if style in SHOWN:
                shows += [shown[1], shown[2], shown[0], *shown[3:]]
        for weight, values in found.items():
            inside, outside, named, rest = np.mean(values, 0)
            rows.append((word, weight, len(values), inside, outside, inside / outside, named, rest))
            print(*(f"{v:.3f}" if isinstance(v, float) else v for v in rows[-1]), flush=True)
    with bench.out.open("w", newline="") as out:
        csv.writer(out).writerows([FIELDS, *([f"{v:.3f}" if isinstance(v, float) else v for v in row] for row in rows)])
    labels = [f"{w:g}" for w in (*WEIGHTS[:2], 1.0, *WEIGHTS[2:])]
    names = [f"{word}, {style}" for word in OBJECTS for style in SHOWN]
    sheet(shows, columns=len(labels), above=labels, left=names).quantize(128).save(bench.sheet, optimize=True)


if __name__ == "__main__":
    main(tyro.cli(Bench))
