"""What a control is worth: how far pictures are from what it was shown, beside those of the model without it.

    reverie train avatars-edges --out runs/avatars-edges
    python bench/control.py runs/avatars-edges

Held-out avatars give hint and prompt; with and without the control the noise of each picture is the same, as are the steps of
dpmpp-2m and the guidance. Errors against the hint, less is better: edges, 1 - F1 of the made picture's edges and those given, each
matched within a pixel; regions, the mean distance in [0, 1] of a patch's mean colour from the given; palette, the sliced
Wasserstein distance of the picture's colours to those of the one that the palette was taken from; low, the root of the mean square
of squares. reward: what ControlNet++ learns from (`train/rewarding.py`), of the drawn pictures. kid x 1000 in EfficientNet-Lite0,
to those that give no hint. --guided: only the asked half of guidance hears the control, which guidance so strengthens. A control
of several kinds is shown one of them alone, each in its turn. Without --prompts no words are said, so that only the hint says
anything. Rows `codec` are the real pictures as the model's codec draws them, which bounds what a control can reach. Rows of the
same setting are replaced.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from rows import put
from skimage.morphology import dilation

from reverie.adapt import Controlled
from reverie.card import parse, rebuild
from reverie.data.avatars import avatars
from reverie.data.hints import HINTS, edges
from reverie.data.kinds import together
from reverie.denoiser import Cond
from reverie.files import metadata
from reverie.guide import cfg
from reverie.measure.distances import kid
from reverie.measure.features import imagenet
from reverie.process.grids import GRIDS
from reverie.rng import Rng, digest
from reverie.solve import named, sample
from reverie.systems.control import open_control
from reverie.systems.shipped import open_model
from reverie.systems.weights import CARD
from reverie.train.jobs import to_pictures, to_signal
from reverie.train.rewarding import patches, soft_edges, squares

KEY = ("control", "hint", "prompts", "guided", "weight", "guidance", "n", "steps")
FIELDS = (*KEY, "error", "reward", "kid", "identity")


@dataclass
class Bench:
    controls: tyro.conf.Positional[tuple[Path, ...]]
    hints: tuple[str, ...] = ()
    """What all are shown; each what it was trained on where it is not said."""
    model: str = "reverie-avatars"
    samples: int = 120
    steps: int = 10
    guidance: float = 3.0
    prompts: bool = True
    guided: bool = False
    """Whether the asked half of guidance alone hears it."""
    weight: float = 1.0
    batch: int = 40
    out: Path = Path("bench/results/control.csv")


def edge_error(made: np.ndarray, hint: np.ndarray) -> float:
    """1 - F1 of (H, W, 3) uint8 and the lines given, within a pixel; 0 where neither has any."""
    given, found = hint[..., 0] > 127, edges()(made)[..., 0] > 127
    if not given.any() or not found.any():
        return float(given.any() or found.any())
    near = np.ones((3, 3), bool)
    precision, recall = found[dilation(given, near)].sum() / found.sum(), given[dilation(found, near)].sum() / given.sum()
    return float(1 - 2 * precision * recall / max(precision + recall, 1e-9))


def region_error(made: np.ndarray, hint: np.ndarray) -> float:
    """The mean over the area of the distance of mean colours, in shares of the diagonal of all colours."""
    colours, label, count = np.unique(hint.reshape(-1, 3), axis=0, return_inverse=True, return_counts=True)
    mean = np.stack([np.bincount(label.ravel(), made[..., c].ravel() / 255) / count for c in range(3)], 1)
    return float((np.linalg.norm(mean - colours / 255, axis=1) * count).sum() / count.sum() / 3**0.5)


def palette_error(made: np.ndarray, real: np.ndarray) -> float:
    """The sliced Wasserstein distance of all pixels' colours to those of the picture, in [0, 1], over 32 directions."""
    ways = np.random.default_rng(0).standard_normal((3, 32))
    ways /= np.linalg.norm(ways, axis=0)
    one, two = (np.sort(a.reshape(-1, 3) / 255 @ ways, axis=0) for a in (made, real))
    return float(abs(one - two).mean())


def low_error(made: np.ndarray, hint: np.ndarray) -> float:
    """The root of the mean square distance of the pictures of 8 x 8, in [0, 1]."""
    side = 8
    high = made.shape[0] // side
    means = [a[: side * high, : side * high].reshape(side, high, side, high, 3).mean((1, 3)) / 255 for a in (made, hint)]
    return float(np.sqrt(np.square(means[0] - means[1]).mean()))


ERRORS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "edges": edge_error, "regions": region_error, "palette": palette_error, "low": low_error,
}  # fmt: skip
REWARD = {"edges": soft_edges(), "regions": patches(), "palette": patches(), "low": squares()}


@torch.no_grad()
def drawn(bench, model, system, said, hints):
    """uint8 (N, C, H, W): picture k begins with the noise of seed k; hints (N, C, H, W) or none."""
    encoder, path, made = system.prompt_encoder, system.denoiser.path, []
    grid = rebuild(parse(system.defaults.grid), GRIDS, "grid")(path, bench.steps)
    for first in range(0, len(said), bench.batch):
        some = said[first : first + bench.batch]
        shown = {} if hints is None else {"hints": (hints[first : first + bench.batch],)}
        cond, empty = (Cond(**{**vars(encoder.prompts(texts)), **shown}) for texts in (some, [""] * len(some)))
        if shown and bench.guided:
            cond, empty = (replace(c, heeded=torch.full((len(some), 1), on)) for c, on in ((cond, True), (empty, False)))
        rng = Rng.of(first, len(some))
        x = path.prior((len(some), *system.codec.shape(*system.defaults.size)), grid[0], rng=rng, spread=1.0)
        z = sample(cfg(model, bench.guidance, empty), x, grid, named("dpmpp-2m")[0], cond=cond, rng=rng)
        made.append(to_pictures(system.codec.decode(z)))
    return np.concatenate(made)


def upright(pictures):
    return np.ascontiguousarray(pictures.transpose(0, 2, 3, 1))


@torch.no_grad()
def main(bench):
    torch.set_num_threads(1)
    held = avatars().split(256)[1]
    count = min(bench.samples, len(held) // 2)
    real, rest = held.images[:count], held.images[count:]
    said = [held.caption(k, np.random.default_rng(digest("bench", k))) if bench.prompts else "" for k in range(count)]
    system, see = open_model(bench.model), imagenet()
    far, known = see(rest), {}
    plain = drawn(bench, system.denoiser, system, said, None)
    beside = {"none": plain, "codec": to_pictures(system.codec.decode(system.codec.encode(to_signal(real)))), "real": real}
    kids = {name: 1000 * kid(far, see(pictures))[0] for name, pictures in beside.items()}
    for place, kind in [(file, kind) for file in bench.controls for kind in bench.hints or own(file)]:
        control, name = open_control(place, system, weight=bench.weight), parse(kind)["name"]
        lines = known.setdefault(kind, np.stack([rebuild(parse(kind), HINTS, "hint")(p) for p in upright(real)]))
        hints = to_signal(lines.transpose(0, 3, 1, 2))
        seen = together({kind: hints}, control.kinds) if control.kinds else hints
        model = Controlled(system.denoiser, [control])
        made = drawn(bench, model, system, said, seen)
        for part in control.net.silence():  # as it was before the first step
            torch.nn.init.zeros_(part.weight), torch.nn.init.zeros_(part.bias)
        same = bool(
            (drawn(bench, model, system, said[:4], seen[:4]) == drawn(bench, system.denoiser, system, said[:4], None)).all()
        )
        whose = place.parent.name if place.name == "model.safetensors" else place.stem
        rows = []
        for who, pictures in (*beside.items(), (whose, made)):
            asked = upright(real) if name == "palette" else lines
            each = [ERRORS[name](p, one) for p, one in zip(upright(pictures), asked, strict=True)]
            row = {"control": who, "hint": kind, "prompts": bench.prompts, "n": count}
            row |= {"guided": bench.guided, "weight": bench.weight, "guidance": bench.guidance}
            row |= {"steps": bench.steps, "error": float(np.mean(each))}
            row |= {"reward": float(REWARD[name](to_signal(pictures), hints).mean())}
            row |= {"kid": kids.get(who) or 1000 * kid(far, see(pictures))[0]}
            rows.append(row | {"identity": same if who == whose else ""})
        put(bench.out, FIELDS, KEY, rows)


def own(place):
    """The kinds of hints that a control was trained on, as it says."""
    about = json.loads(metadata(place / "model.safetensors" if place.is_dir() else place)[CARD])["about"]
    return about.get("hints") or [about["hint"]]


if __name__ == "__main__":
    main(tyro.cli(Bench))
