"""A character that nobody has drawn, in five pictures: whether it appears in new contexts, and what the model forgets by it.

    python bench/subject.py learn                   # a word and low-rank changes, with and without pictures of others
    python bench/subject.py zip --style runs/adapt/lora-0/lora.safetensors   # with a style of bench/adapt.py

The character is a woman of DiceBear's Avataaars with teal hair and lavender skin, which no picture of the data has; its five
pictures differ in clothes and expressions, which captions name. Rows are of 24 new contexts, four seeds each.

colours: the share of pixels in its two colours, over that of real pictures of it, at most 1, mean over pictures. like: cosine in
features of EfficientNet-Lite0 to the mean of real pictures of it. context: attributes asked for that the shipped reader sees.
others: prompts of 120 held-out avatars that do not name it; leak: pixels in its colours there, of their share in its own; drift:
KID x 1000 to what the model drew of them before, from the same seeds. style: KID x 1000 to that style (`zip`). Rows of the same
run are replaced.
"""

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from adapt import images
from PIL import Image
from rows import put

from reverie.cli.adapt import Adapt, AdaptZip
from reverie.data.avatar_attributes import CLOTHING_COLORS, HAIR_COLORS, SKINS
from reverie.data.avatar_parts import job, retouch
from reverie.data.avatars import _ask, _ready, avatars
from reverie.data.render import render
from reverie.measure.agreement import shown
from reverie.measure.distances import kid
from reverie.measure.features import imagenet
from reverie.systems.shipped import open_model, open_reader
from reverie.tasks.train import Session

KEY = ("run", "method", "prior", "minutes", "seed")
FIELDS = (*KEY, "steps", "colours", "like", "context", "leak", "drift", "style", "cpu s", "MB")
TEAL, LAVENDER = "11c5b7", "b7a5e8"
WHO = {"style": "avataaars", "hair": "long", "hair_color": "purple", "skin": "light", "facial_hair": "none"}
SHOWN = (
    *(("t-shirt", "blue", "smiling", "none"), ("hoodie", "red", "neutral", "none"), ("sweater", "gray", "laughing", "none")),
    *(("t-shirt", "orange", "sad", "none"), ("overalls", "green", "smiling", "none")),
)
NEAR = 48
"""How far a pixel's colour may be from one of the character's, of 441."""


@dataclass
class Bench:
    what: tyro.conf.Positional[Literal["learn", "zip"]]
    folder: Path = Path("runs/subject")
    minutes: float = 5.0
    prior: int = 60
    style: Path = Path("runs/adapt/lora-0/lora.safetensors")
    style_data: Path = Path("runs/adapt/adventurer.safetensors")
    seed: int = 0
    threads: int = 2
    out: Path = Path("bench/results/subject.csv")


def contexts():
    """24 of clothes, colours, expressions and glasses, none of them shown."""
    rng, found = np.random.default_rng(7), []
    colours = [c for c in CLOTHING_COLORS if c not in ("white", "blue")]
    while len(found) < 24:
        clothes, expression = rng.choice(["t-shirt", "hoodie", "jacket"]), rng.choice(["angry", "surprised", "laughing", "smiling"])
        new = (str(clothes), str(rng.choice(colours)), str(expression), str(rng.choice(["none", "round", "sunglasses"])))
        if new not in found and new not in SHOWN:
            found.append(new)
    return found


def said(clothes, colour, expression, glasses):
    return f"{expression}, {colour} {clothes}" + (
        f", {glasses} glasses" if glasses == "round" else f", {glasses}" * (glasses != "none")
    )


def portraits(which):
    """uint8 (N, 3, 64, 64): the character, in these contexts."""
    modules, _ = _ready(1, 64, 0, ("avataaars",))
    told = [WHO | dict(zip(("clothing", "clothing_color", "expression", "glasses"), each, strict=True)) for each in which]
    answers = _ask([job(a, np.random.default_rng(3)) for a in told], modules)
    svgs = [retouch(answer["svg"], a) for answer, a in zip(answers, told, strict=True)]
    for old, new in ((HAIR_COLORS["purple"], TEAL), (SKINS["light"], LAVENDER)):
        svgs = [re.sub(old, new, svg, flags=re.IGNORECASE) for svg in svgs]
    return render(svgs, 64)


def near(pictures, code):
    """(N,): the share of pixels of a colour."""
    colour = np.array([int(code[k : k + 2], 16) for k in (0, 2, 4)])[None, :, None, None]
    return (np.linalg.norm(pictures.astype(float) - colour, axis=1) < NEAR).mean((1, 2))


def data(bench):
    folder = bench.folder / "five"
    folder.mkdir(parents=True, exist_ok=True)
    for k, (picture, context) in enumerate(zip(portraits(SHOWN), SHOWN, strict=True)):
        Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).save(folder / f"{k}.png")
        (folder / f"{k}.txt").write_text(said(*context))
    return folder


class Judge:
    """What real pictures of the character are, and what the model drew before."""

    def __init__(self, bench):
        self.asked = contexts()
        self.real, self.see, self.reader = portraits(self.asked), imagenet(), open_reader("avatars")
        self.shares = [near(self.real, code).mean() for code in (TEAL, LAVENDER)]
        self.mean = self.see(self.real).mean(0)
        held = avatars().split(256)[1].take(np.arange(120))
        self.others = [held.caption(k, np.random.default_rng(k)) for k in range(120)]
        self.before = images(open_model("reverie-avatars"), self.others, 1000 * bench.seed)
        self.style = self.see(avatars(str(bench.style_data)).images[-240:]) if bench.what == "zip" else None

    def colours(self, pictures):
        return float(
            np.mean(
                [np.minimum(near(pictures, code) / share, 1) for code, share in zip((TEAL, LAVENDER), self.shares, strict=True)]
            )
        )

    def like(self, pictures):
        return float(F.cosine_similarity(torch.as_tensor(self.see(pictures)), torch.as_tensor(self.mean)[None]).mean())

    def __call__(self, system, word, seed):
        named = [f"{said(*each)}, {word}" if word else said(*each) for each in self.asked]
        made = np.concatenate([images(system, named, 1000 * seed + 100 * k) for k in range(4)])
        told = [dict(zip(("clothing", "clothing_color", "expression", "glasses"), each, strict=True)) for each in self.asked] * 4
        others = images(system, self.others, 1000 * seed)
        row = {"colours": self.colours(made), "like": self.like(made), "context": shown(made, told, self.reader).overall}
        row |= {"leak": self.colours(others), "drift": 1000 * kid(self.see(self.before), self.see(others))[0]}
        return row | ({} if self.style is None else {"style": 1000 * kid(self.style, self.see(made))[0]})


def learnt(asked, folder):
    """The run in a folder, from its beginning or done; what it took."""
    spent = folder / "spent.json"
    if not spent.exists():
        asked, begin = asked.ready(folder), time.process_time()
        for now in Session.open(asked.recipe(), folder, resume=True):
            steps = now.step
        spent.write_text(json.dumps({"cpu s": round(time.process_time() - begin), "steps": steps}))
    return json.loads(spent.read_text())


def opened(folder):
    files = {what: [str(folder / f"{name}.safetensors")] for what, name in (("loras", "lora"), ("embeddings", "embedding"))}
    files = {what: file for what, file in files.items() if Path(file[0]).exists()}
    return open_model("reverie-avatars", **files), sum(Path(file[0]).stat().st_size for file in files.values()) / 1e6


def learn(bench, judge, five):
    ways = {"pivotal": {"word": "sks", "caption": "{}, sks"}, "inversion": {"word": "sks", "caption": "{}, sks"}, "lora": {}}
    runs = [(method, prior) for method in ways for prior in ((0, bench.prior) if method != "inversion" else (0,))]
    for method, prior in runs:
        name = f"{method}-prior" if prior else method
        kept = {"prior": prior, "prior_prompt": "a woman"} if prior else {}
        asked = Adapt(method=method, data=str(five), minutes=bench.minutes, seed=bench.seed, **ways[method], **kept)
        folder = bench.folder / f"{name}-{bench.seed}"
        spent = learnt(asked, folder)
        system, size = opened(folder)
        row = judge(system, ways[method].get("word"), bench.seed)
        row |= {"run": name, "method": method, "prior": prior, "minutes": bench.minutes, "seed": bench.seed, "MB": size}
        put(bench.out, FIELDS, KEY, [row | spent])


def zipped(bench, judge):
    """The character's LoRA with that of a style: zipped, both at full weight, and both at a half."""
    first, folder = bench.folder / f"lora-{bench.seed}" / "lora.safetensors", bench.folder / f"zip-{bench.seed}"
    how = {"first": str(first), "second": str(bench.style), "first_prompt": "a smiling woman", "second_prompt": "a man"}
    spent = learnt(AdaptZip(**how, seed=bench.seed), folder)
    both, none = [str(first), str(bench.style)], {"cpu s": 0, "steps": 0}
    rows = {"the character": ([str(first)], none), "the style": ([str(bench.style)], none), "sum": (both, none)}
    rows |= {"sum of halves": ([f"{file}:0.5" for file in both], none), "zip": ([str(folder / "lora.safetensors")], spent)}
    for name, (files, took) in rows.items():
        row = judge(open_model("reverie-avatars", loras=files), "", bench.seed)
        put(bench.out, FIELDS, KEY, [row | took | {"run": name, "method": "zip", "prior": "", "minutes": "", "seed": bench.seed}])


def main(bench):
    torch.set_num_threads(bench.threads)
    five, judge = data(bench), Judge(bench)
    first = {"run": "real", "method": "", "prior": "", "minutes": "", "seed": bench.seed}
    row = {"colours": judge.colours(judge.real), "like": judge.like(judge.real)}
    put(bench.out, FIELDS, KEY, [first | row, first | {"run": "before"} | judge(open_model("reverie-avatars"), "", bench.seed)])
    if bench.what == "learn":
        learn(bench, judge, five)
    else:
        zipped(bench, judge)


if __name__ == "__main__":
    main(tyro.cli(Bench))
