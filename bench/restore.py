"""What restoring finds: 16 held-out avatars, measured in five ways, restored by three methods and by none.

    OMP_NUM_THREADS=1 python bench/restore.py

The prompt is the picture's own caption, at the guidance said; dpmpp-2m on the model's own grid. Measurements are of eight bits,
after noise of deviation 0.02; a JPEG is written and read by Pillow, and no noise put on. psnr (dB) is to the picture that was
measured; worst, the least of them; residual, the rms of y - A x in deviations of the noise, which is 1 of the truth. All are of
what is decoded, before anything is made to agree. Method none is what was seen, as large as the picture; enlarged, the truth made
small and enlarged by the model's codec, which bounds what it can draw. evaluations, backward: passes through the net, for all of
the way. Seconds are of a processor, for one picture.
"""

import csv
import io
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image, ImageDraw

from reverie.card import parse, rebuild
from reverie.data.avatars import avatars
from reverie.denoiser import Cond
from reverie.guide import cfg
from reverie.guide.kept import Beside
from reverie.guide.operators import Operator
from reverie.guide.posterior import METHODS, Posterior
from reverie.process.grids import GRIDS
from reverie.rng import Rng
from reverie.solve import named, sample
from reverie.systems.shipped import open_model
from reverie.tasks.restore import OPERATORS
from reverie.train.jobs import to_pictures, to_signal

NOISE = 0.02
WAYS = ("blur(sigma=1.5)", "downsample(factor=4)", "mask()", "jpeg(quality=10)", "grey()")
FIELDS = ("operator", "method", "guidance", "steps", "psnr", "worst", "residual", "evaluations", "backward", "seconds")


@dataclass
class Bench:
    count: int = 16
    steps: int = 16
    guidance: float = 1.0
    solver: str = "dpmpp-2m"
    ways: tuple[str, ...] = WAYS
    methods: tuple[str, ...] = ("dps()", "pigdm()", "mmps()")
    prompts: bool = True
    out: Path = Path("bench/results/restore.csv")


def hole(size: int) -> torch.Tensor:
    """A mask (1, 1, H, W) whose middle half is unknown."""
    image = Image.new("L", (size, size), 0)
    ImageDraw.Draw(image).rectangle((size // 4, size // 4, size * 3 // 4 - 1, size * 3 // 4 - 1), fill=255)
    return torch.from_numpy(np.array(image))[None, None] / 255


def measured(way: str, truth: torch.Tensor) -> tuple[Operator, torch.Tensor, torch.Tensor, float]:
    """(operator, y, its variance, the noise that was put on)."""
    operator, size = rebuild(parse(way), OPERATORS, "operator"), truth.shape[-1]
    operator = operator.told((3, size, size), hole(size) if way == "mask()" else None)
    if way.startswith("jpeg"):
        y = operator.read(torch.cat([squeezed(picture, parse(way)["quality"]) for picture in to_pictures(truth)]))
        return operator, y, operator.variance(y, 0.0), 0.0
    y = operator(truth)
    y = y + NOISE * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    y = operator.read(to_signal(to_pictures(y.clamp(-1, 1)))) if way != "grey()" else to_signal(to_pictures(y))
    return operator, y, operator.variance(y, NOISE), NOISE


def squeezed(picture: np.ndarray, quality: int) -> torch.Tensor:
    file = io.BytesIO()
    Image.fromarray(picture.transpose(1, 2, 0)).save(file, "JPEG", quality=quality)
    return to_signal(np.array(Image.open(file)).transpose(2, 0, 1)[None])


class Counted:
    """A model that counts how often it is asked, and how often asked back."""

    def __init__(self, model):
        self.model, self.path, self.forth, self.back = model, model.path, 0, 0

    def __call__(self, x, t, cond=None):
        self.forth += 1
        out = self.model(x, t, cond)
        if out.requires_grad:
            out.register_hook(self._count)
        return out

    def _count(self, gradient):
        self.back += 1


def psnr(one, two):
    """(B,) of pictures in [-1, 1], as they are saved."""
    one, two = (torch.from_numpy(to_pictures(v)).double() / 255 for v in (one, two))
    return -10 * (one - two).square().flatten(1).mean(1).log10()


def near(x, truth):
    """The mean and the least PSNR, as they are written."""
    each = psnr(x, truth)
    return f"{each.mean():.2f}", f"{each.min():.2f}"


def residual(operator, x, y, variance):
    """rms of (y - A x) in deviations, where anything was measured."""
    gap = (y - operator(x)) / variance.sqrt()
    known = operator(torch.ones_like(x)) != 0 if type(operator).__name__ == "Mask" else torch.ones_like(gap)
    return float((gap * known).square().sum().div(known.sum()).sqrt())


def main(bench):
    torch.set_num_threads(1)
    system, rng = open_model("reverie-avatars"), np.random.default_rng(0)
    held = avatars().split(1000)[1].take(range(bench.count))
    truth, said = to_signal(held.images), [held.caption(i, rng) if bench.prompts else "" for i in range(bench.count)]
    encoder, codec, path = system.prompt_encoder, system.codec, system.denoiser.path
    with torch.no_grad():
        told, empty = encoder.prompts(said), encoder.prompts([""] * bench.count)
        best = codec.decode(codec.encode(truth))
    rows = [("", "enlarged", "", "", *near(best, truth), "", 0, 0, 0)]
    for way in bench.ways:
        operator, y, variance, _ = measured(way, truth)
        seen = operator.back(y)
        rows.append((way, "none", "", "", *near(seen, truth), f"{residual(operator, seen, y, variance):.2f}", 0, 0, 0))
        print(*rows[-1], flush=True)
        for method in bench.methods:
            counted, begin = Counted(cfg(system.denoiser, bench.guidance, empty)), time.process_time()
            how = rebuild(parse(method), METHODS, "method")
            model = Posterior(counted, lambda z, a=operator: a(codec.decode(z)), how)
            grid, noise = rebuild(parse(system.defaults.grid), GRIDS, "grid")(path, bench.steps), Rng.of(0, bench.count)
            x = path.prior((bench.count, *codec.shape(64, 64)), grid[0], rng=noise, spread=1.0)
            cond: Cond = Beside(told, (y, variance.expand(bench.count, *variance.shape[1:])))
            x = sample(model, x, grid, named(bench.solver)[0], cond=cond, rng=noise)
            with torch.no_grad():
                made = codec.decode(x).clamp(-1, 1)
            spent = (time.process_time() - begin) / bench.count
            numbers = *near(made, truth), f"{residual(operator, made, y, variance):.2f}"
            rows.append((way, method, bench.guidance, bench.steps, *numbers, counted.forth, counted.back, f"{spent:.2f}"))
            print(*rows[-1], flush=True)
    with bench.out.open("w", newline="") as file:
        csv.writer(file).writerows([FIELDS, *rows])


if __name__ == "__main__":
    main(tyro.cli(Bench))
