"""A style that the shipped model has never seen, by each way of adapting it: what is gained, and what is lost.

    python bench/style_reader.py                    # the judge
    python bench/adapt.py style                     # every way, ten minutes each
    python bench/adapt.py curves                    # a LoRA by rank, by minutes, by pictures

The style is `adventurer` of DiceBear, made anew where it is missing: the first pictures of a set of 400 are learnt; the last 240
are what is drawn. Their captions say, in words that the model knows, what both have: how long the hair is, its colour and that of
the skin; they do not name the style. KID x 1000 in the features of EfficientNet-Lite0 to those, `before` by the model as it ships;
agreement: the share of those three that the judge sees, and `real` that in the pictures themselves. `own`: KID of the model's own
styles, with a prompt that names one, to real pictures of them. Rows of the same run are replaced.
"""

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from PIL import Image
from rows import put

from reverie.cli.adapt import Adapt
from reverie.data.avatar_styles import nearest_colour
from reverie.data.avatars import avatars, generate_file
from reverie.measure.agreement import shown
from reverie.measure.features import imagenet
from reverie.measure.report import Yardstick
from reverie.systems.shipped import open_model
from reverie.systems.weights import load_any
from reverie.tasks import generate
from reverie.tasks.train import Session

KEY = ("style", "run", "method", "rank", "pictures", "minutes", "seed")
FIELDS = (
    *KEY,
    "steps",
    "kid x 1000",
    "before",
    "ratio",
    "agreement",
    "agreement before",
    "real",
    "own",
    "own before",
    "cpu s",
    "MB",
)
STYLE = "adventurer"
HAIRS = {"beige": "blonde", "orange": "red"}
SKINS = {"f2d3b1": "light", "ecad80": "tan", "9e5622": "brown", "763900": "dark"}
WAYS = {
    "lora": {},
    "lora-dora": {"lengths": True},
    "dreambooth": {},
    "dreambooth-lora": {"rank": 16},
    "inversion": {"word": "sks", "caption": "{}, sks"},
    "pivotal": {"word": "sks", "caption": "{}, sks"},
}


@dataclass
class Bench:
    what: tyro.conf.Positional[Literal["style", "curves"]]
    folder: Path = Path("runs/adapt")
    minutes: float = 10.0
    pictures: int = 40
    ways: tuple[str, ...] = tuple(WAYS)
    ranks: tuple[int, ...] = (2, 8, 32)
    lengths: tuple[float, ...] = (1.0, 3.0)
    counts: tuple[int, ...] = (5, 10, 20)
    seed: int = 0
    samples: int = 240
    threads: int = 2
    out: Path = Path("bench/results/adapt.csv")


def data(bench):
    """All pictures of the style."""
    file = bench.folder / f"{STYLE}.safetensors"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        generate_file(str(file), 400, 64, 5, [STYLE], lambda done, count: None)
    return avatars(str(file))


def told(pictures, row):
    """What a picture shows, in the model's words; DiceBear says the colours as codes, and the hair as `long07`."""
    own = pictures.attributes[row]
    colour = nearest_colour(own["hairColor"][1:])
    return {"hair": own["hair"].rstrip("0123456789"), "hair_color": HAIRS.get(colour, colour), "skin": SKINS[own["skinColor"][1:]]}


def captioned(pictures, row):
    about = told(pictures, row)
    return f"{about['hair']} {about['hair_color']} hair, {about['skin']} skin"


def learnt(bench, pictures, count):
    """The folder of the first so many pictures."""
    folder = bench.folder / f"{STYLE}-{count}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for k in range(count):
        Image.fromarray(np.ascontiguousarray(pictures.images[k].transpose(1, 2, 0))).save(folder / f"{k:02d}.png")
        (folder / f"{k:02d}.txt").write_text(captioned(pictures, k))
    return folder


def images(system, prompts, seed, **more):
    made = generate(system, list(prompts), seed=seed, batch=40, **more)
    return np.stack([np.asarray(image).transpose(2, 0, 1) for image in made])


class Judge:
    """What pictures of the style are held against, and pictures of the model's own."""

    def __init__(self, bench, pictures):
        rows = range(len(pictures) - bench.samples, len(pictures))
        self.asked = [told(pictures, row) for row in rows]
        self.prompts = [captioned(pictures, row) for row in rows]
        self.reader, features = load_any(bench.folder / "reader" / "model.safetensors").reader, imagenet()
        self.yard = Yardstick(features, pictures.images[list(rows)])
        self.real = shown(pictures.images[list(rows)], self.asked, self.reader).overall
        held = avatars().split(256)[1].take(np.arange(120))
        self.others, self.own = Yardstick(features, held.images), [held.caption(k, np.random.default_rng(k)) for k in range(120)]

    def __call__(self, system, seed, template="{}"):
        made = images(system, [template.replace("{}", prompt) for prompt in self.prompts], 1000 * seed)
        agreed = shown(made, self.asked, self.reader).overall
        own = self.others.row("own", images(system, self.own, 1000 * seed)).kid
        return self.yard.row(system.name, made).kid, agreed, own


def run(bench, judge, pictures, before, name, way, rank=None, count=None, minutes=None):
    """One training, and what came of it."""
    count, minutes = count or bench.pictures, minutes or bench.minutes
    folder = bench.folder / f"{name}-{bench.seed}"
    method = way.partition("-")[0]
    options = {k: v for k, v in WAYS[way].items() if k != "rank"}
    rank = WAYS[way].get("rank") if rank is None else rank
    asked = Adapt(method=method, data=str(learnt(bench, pictures, count)), minutes=minutes, rank=rank, seed=bench.seed, **options)
    spent = folder / "spent.json"
    if not spent.exists():
        session, begin = Session.open(asked.recipe(), folder, resume=True), time.process_time()
        for now in session:
            steps = now.step
        spent.write_text(json.dumps({"cpu s": round(time.process_time() - begin), "steps": steps}))
    files = {what: [str(folder / f"{name}.safetensors")] for what, name in (("loras", "lora"), ("embeddings", "embedding"))}
    files = {what: file for what, file in files.items() if Path(file[0]).exists()}
    whole = folder / "model.safetensors"
    system = open_model(str(whole) if whole.exists() else "reverie-avatars", **files)
    kid, agreed, own = judge(system, bench.seed, options.get("caption", "{}"))
    size = sum(Path(file[0]).stat().st_size for file in files.values()) if files else whole.stat().st_size
    row = {
        "style": STYLE, "run": name, "method": way, "rank": asked.recipe().rank, "pictures": count, "minutes": minutes,
        "seed": bench.seed, **json.loads(spent.read_text()), "kid x 1000": kid, "before": before[0], "ratio": before[0] / kid,
        "agreement": agreed, "agreement before": before[1], "real": judge.real, "own": own, "own before": before[2],
        "MB": size / 1e6,
    }  # fmt: skip
    put(bench.out, FIELDS, KEY, [row])


def main(bench):
    torch.set_num_threads(bench.threads)
    pictures = data(bench)
    judge = Judge(bench, pictures)
    before = judge(open_model("reverie-avatars"), bench.seed)
    print("before", before, "real", judge.real, flush=True)
    if bench.what == "style":
        for way in bench.ways:
            run(bench, judge, pictures, before, way, way)
        return
    for rank in bench.ranks:
        run(bench, judge, pictures, before, f"rank-{rank}", "lora", rank=rank)
    for minutes in bench.lengths:
        run(bench, judge, pictures, before, f"minutes-{minutes:g}", "lora", minutes=minutes)
    for count in bench.counts:
        run(bench, judge, pictures, before, f"pictures-{count}", "lora", count=count)


if __name__ == "__main__":
    main(tyro.cli(Bench))
