"""What guidance does: accuracy and diversity against its weight, autoguidance against CFG, and saturation where the weight is high.

    reverie train fashion-mnist --out runs/fashion-mnist
    reverie train fashion-classifier --out runs/fashion-classifier
    reverie train avatars-scorer --out runs/avatars-scorer
    python bench/guidance.py --fashion runs/fashion-mnist --classifier runs/fashion-classifier --scorer runs/avatars-scorer

All pictures of a model begin with the same noise, and every setting has the same steps of dpmpp-2m on the model's own grid; a step
is two evaluations of a net of this size, under whatever guidance, but for the plain model, which is one.
Fashion-MNIST, classes in turn: accuracy by the shipped reader; frechet to the 10,000 test pictures in its features; diversity, the
mean distance there between two pictures of one class, over that of real ones. Avatars: agreement with prompts by the shipped
reader; kid x 1000 in EfficientNet-Lite0 to 1,000 held-out avatars. Both: ends, the share of values within 1 of 0 or 255 (of the
brightest alone on Fashion-MNIST, whose ground is 0); saturation, the mean of HSV's (of avatars). `autoguide WHICH 0` is the weak
model itself. Rows that are there are kept.
"""

import csv
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from reverie.card import parse, rebuild
from reverie.data.avatars import avatars
from reverie.data.fashion import fashion_mnist
from reverie.files import load_tensors
from reverie.guide import Asked, Guide, autoguide, guided
from reverie.guide.worse import Hearing
from reverie.measure.agreement import shown
from reverie.measure.distances import frechet, kid
from reverie.measure.features import imagenet
from reverie.measure.prompts import avatar_prompts
from reverie.process.grids import GRIDS
from reverie.rng import Rng
from reverie.solve import named, sample
from reverie.systems.guides import opened
from reverie.systems.shipped import open_model, open_reader
from reverie.systems.system import System
from reverie.train.ema import combine, split
from reverie.train.jobs import to_pictures

WEIGHTS = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
HIGH = 8.0
TAMED = (
    *("cfg_plus(scale=1.0)", "cfg_zero(steps=0)", "apg(eta=0)", "apg(eta=0, norm=2.5, momentum=-0.5)", "rescale(phi=0.7)"),
    *("threshold(percentile=0.995)", "interval(low=0.2, high=0.8)"),
)
FIELDS = ("model", "guides", "w", "n", "accuracy", "diversity", "distance", "ends", "saturation")


@dataclass
class Bench:
    fashion: Path
    classifier: Path
    scorer: Path
    samples: int = 500
    avatars: int = 120
    steps: int = 10
    batch: int = 50
    out: Path = Path("bench/results/guidance.csv")
    plot: Path = Path("docs/guidance.png")


@torch.no_grad()
def drawn(system: System, said: Sequence[Any], steps: int, scale: float, guides: Sequence[Guide], batch: int) -> np.ndarray:
    """uint8 (N, C, H, W): picture k has seed k."""
    encoder, path, made = system.prompt_encoder, system.denoiser.path, []
    grid = rebuild(parse(system.defaults.grid), GRIDS, "grid")(path, steps)
    for first in range(0, len(said), batch):
        some = tuple(said[first : first + batch])
        cond, empty, rng = encoder.prompts(some), encoder.prompts([""] * len(some)), Rng.of(first, len(some))
        model = guided(Asked(plain=system.denoiser, scale=scale, negative=empty, grid=grid, said=some, cond=cond), guides)
        x = path.prior((len(some), *system.codec.shape(*system.defaults.size)), grid[0], rng=rng, spread=1.0)
        made.append(to_pictures(system.codec.decode(sample(model, x, grid, named("dpmpp-2m")[0], cond=cond, rng=rng))))
    return np.concatenate(made)


def weaker(run: Path, which: str) -> Hearing:
    """The model of a run as it was at a snapshot ("760"), or an average of another length at its end ("ema 0.25")."""
    found, system = sorted(run.glob("snapshot-*.safetensors")), open_model(str(run))
    stored = [entry for path in found for entry in split(int(path.stem[9:]), load_tensors(path)[0])]
    if which.startswith("ema"):
        weights = combine(stored, float(which.split()[1]))
    else:
        weights = next(w for step, width, w in stored if step == int(which) and width == 0.05)
    encoder = system.prompt_encoder
    for name, module in (("denoiser.", system.denoiser), ("encoder.", encoder)):
        module.load_state_dict({k[len(name) :]: v.float() for k, v in weights.items() if k.startswith(name)})
    return Hearing(system.denoiser, lambda asked: encoder.prompts(asked.said))


def spread(features: np.ndarray, labels: np.ndarray) -> float:
    """The mean distance between two of one class, over the classes."""
    each = []
    for k in np.unique(labels):
        some = torch.from_numpy(features[labels == k])
        each.append(float(torch.pdist(some).mean()))
    return float(np.mean(each))


def saturation(pictures: np.ndarray) -> float:
    """The mean of HSV's, (max - min) / max."""
    if pictures.shape[1] == 1:
        return 0.0
    most, least = pictures.max(1).astype(float), pictures.min(1).astype(float)
    return float(((most - least) / np.maximum(most, 1)).mean())


def ends(pictures: np.ndarray) -> float:
    """The share of values at the ends."""
    far = pictures >= 254 if pictures.shape[1] == 1 else (pictures >= 254) | (pictures <= 1)
    return float(far.mean())


class Fashion:
    def __init__(self, bench: Bench) -> None:
        self.system, self.reader = open_model(str(bench.fashion)), open_reader("fashion")
        real = fashion_mnist("test").pad(32)
        self.names, self.real, self.labels = real.classes, real.images, real.labels
        self.features = self.reader.features(real.images)
        self.said = [k % 10 for k in range(bench.samples)]
        rows = np.concatenate([np.flatnonzero(self.labels == k)[: bench.samples // 10] for k in range(10)])
        self.floor, self.apart = rows, spread(self.features[rows], self.labels[rows])

    def measured(self, pictures: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        seen = self.reader.features(pictures)
        ((head, _),) = self.reader.values.items()
        right = np.mean([one[head] == self.names[k] for one, k in zip(self.reader.read(pictures), labels, strict=True)])
        far = frechet(self.features, seen)
        return {"accuracy": right, "diversity": spread(seen, labels) / self.apart, "distance": far}

    def judged(self, pictures: np.ndarray) -> dict[str, float]:
        return self.measured(pictures, np.array(self.said))

    def real_row(self) -> dict[str, float]:
        rest = np.setdiff1d(np.arange(len(self.real)), self.floor)
        found = self.measured(self.real[self.floor], self.labels[self.floor])
        return found | {"distance": frechet(self.features[rest], self.features[self.floor])} | looks(self.real[self.floor])

    def settings(self, bench: Bench) -> list[tuple[str, float]]:
        steps = sorted(int(p.stem[9:]) for p in bench.fashion.glob("snapshot-*.safetensors"))
        weak = (str(steps[0]), str(steps[1]), "ema 0.25")
        reader = f"classifier(reader='{bench.classifier}', scale=%g)"
        return [
            *(("", w) for w in WEIGHTS),
            *((f"autoguide {which} {scale:g}", 1.0) for which, scale in itertools.product(weak, (0, 1.5, 2.5))),
            *((reader % s, 0.0) for s in (1, 3, 8)),
            (reader % 1, 1.0),
            ("pag(scale=1)", 1.0),
            ("slg(layers=[3], scale=1, start=0, stop=1)", 1.0),
            *((text, HIGH) for text in TAMED),
        ]


class Avatars:
    def __init__(self, bench: Bench) -> None:
        self.system, self.reader, self.see = open_model("reverie-avatars"), open_reader("avatars"), imagenet()
        prompts = avatar_prompts(2 * bench.avatars)[::2]
        self.said, self.asked = [p.text for p in prompts], [p.attributes for p in prompts]
        held = avatars().split(1000)[1]
        self.held, self.real = held, self.see(held.images)

    def judged(self, pictures: np.ndarray) -> dict[str, float]:
        right = shown(pictures, self.asked, self.reader).overall
        return {"accuracy": right, "diversity": float("nan"), "distance": 1000 * kid(self.real, self.see(pictures))[0]}

    def real_row(self) -> dict[str, float]:
        some = self.held.take(range(len(self.said)))
        right = shown(some.images, [*some.attributes], self.reader).overall
        far = 1000 * kid(self.real[len(self.said) :], self.real[: len(self.said)])[0]
        return {"accuracy": right, "diversity": float("nan"), "distance": far} | looks(some.images)

    def settings(self, bench: Bench) -> list[tuple[str, float]]:
        scorer = f"scored(scorer='{bench.scorer}', scale=%g)"
        return [("", 1.0), ("", 3.0), ("", HIGH), *((scorer % s, 1.0) for s in (1, 4)), *((text, HIGH) for text in TAMED)]


def looks(pictures: np.ndarray) -> dict[str, float]:
    return {"ends": ends(pictures), "saturation": saturation(pictures)}


def wished(text: str, bench: Bench) -> list[Guide]:
    if not text:
        return []
    if text.startswith("autoguide "):
        *which, scale = text.split()[1:]
        return [autoguide(weaker(bench.fashion, " ".join(which)), float(scale))]
    return [opened(text)]


def plain(text: str) -> str:
    """Without the places of files."""
    card = None if not text or text.startswith("autoguide ") else parse(text)
    return text if card is None else f"{card['name']} {' '.join(f'{k}={v}' for k, v in card.items() if k not in NAMES)}".strip()


NAMES = ("name", "reader", "scorer")


def draw(rows: list[dict[str, str]], place: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ((left, middle), (ends_, right)) = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    fashion, faces = ([r for r in rows if r["model"] == name] for name in ("fashion", "avatars"))
    curve = [r for r in fashion if r["guides"] == ""]
    by = [r for r in fashion if r["guides"].startswith("classifier") and float(r["w"]) == 0]
    for some, mark in ((curve, "CFG, w"), (by, "classifier alone, s")):
        at = [float(r["w"]) if some is curve else float(r["guides"].split("=")[1]) for r in some]
        for name in ("accuracy", "diversity"):
            style = "-" if name == "accuracy" else "--"
            left.plot(
                at, [float(r[name]) for r in some], f"o{style}", color="C0" if some is curve else "C1", label=f"{name}: {mark}"
            )
    left.set(xlabel="w or s", title="Fashion-MNIST: accuracy and diversity")
    middle.plot([float(r["w"]) for r in curve], [float(r["distance"]) for r in curve], "o-", label="CFG")
    for which in dict.fromkeys(r["guides"].rpartition(" ")[0] for r in fashion if r["guides"].startswith("autoguide")):
        some = [r for r in fashion if r["guides"].rpartition(" ")[0] == which and float(r["guides"].rpartition(" ")[2]) > 0]
        at = [1.0, *(float(r["guides"].rpartition(" ")[2]) for r in some)]
        label = "weak: " + which.removeprefix("autoguide ").replace("ema", "average")
        middle.plot(at, [float(curve[0]["distance"]), *(float(r["distance"]) for r in some)], "o-", label=label)
    middle.set(xlabel="scale", title="Fashion-MNIST: Frechet distance", xlim=(0.9, 3.1))
    inside = [
        float(r["distance"])
        for r in fashion
        if re.match(r"autoguide .* [1-9]", r["guides"]) or (not r["guides"] and float(r["w"]) <= 3)
    ]
    middle.set_ylim(0.9 * min(inside), 1.05 * max(inside))
    for axis, some, name in ((ends_, fashion, "ends"), (right, faces, "distance")):
        shown = [r for r in some if r["guides"] == "real" or (not r["guides"]) or float(r["w"]) == HIGH]
        names = [f"{r['guides'] or 'CFG'}{'' if r['guides'] else ', w = ' + format(float(r['w']), 'g')}" for r in shown]
        axis.barh(names, [float(r[name]) for r in shown], color=["C2" if r["guides"] == "real" else "C0" for r in shown])
        axis.invert_yaxis()
        axis.tick_params(labelsize=7)
    ends_.set(title="Fashion-MNIST, guides at w = 8: share of saturated values")
    right.set(title="avatars, guides at w = 8: KID x 1000")
    left.legend(fontsize=7)
    middle.legend(fontsize=7)
    figure.savefig(place, dpi=90)


def main(bench: Bench) -> None:
    bench.out.parent.mkdir(parents=True, exist_ok=True)
    rows = list(csv.DictReader(bench.out.open())) if bench.out.exists() else []
    there = {(r["model"], r["guides"], float(r["w"])) for r in rows}
    with bench.out.open("a", newline="") as file:
        table = csv.DictWriter(file, FIELDS)
        if not rows:
            table.writeheader()
        for model, make in (("fashion", Fashion), ("avatars", Avatars)):
            side = make(bench)

            def write(guides: str, w: float, found: dict[str, float], model: str = model, n: int = len(side.said)) -> None:
                row = {"model": model, "guides": guides, "w": w, "n": n, **{k: f"{v:.4g}" for k, v in found.items()}}
                table.writerow(row)
                file.flush()
                print(*row.values(), flush=True)

            if (model, "real", 1.0) not in there:
                write("real", 1.0, side.real_row())
            for text, w in side.settings(bench):
                if (model, plain(text), w) not in there:
                    pictures = drawn(side.system, side.said, bench.steps, w, wished(text, bench), bench.batch)
                    write(plain(text), w, side.judged(pictures) | looks(pictures))
    draw(list(csv.DictReader(bench.out.open())), bench.plot)


if __name__ == "__main__":
    main(tyro.cli(Bench))
