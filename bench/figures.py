"""A figure of each task that changes pictures, by the shipped model: no selection, seeds as written. `make figures`.

    python bench/figures.py [names] [--out docs/figures]

Those of what needs a run of one's own are drawn by its bench: `bench/following.py` (stress), `bench/cascade.py` (a cascade).
"""

import io
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from PIL import Image, ImageDraw, ImageFilter

import reverie
from reverie.data.avatars import avatars
from reverie.data.hints import edges
from reverie.data.sheet import sheet
from reverie.systems.control import open_control
from reverie.tasks import Edit, Invert, Vary
from reverie.tasks.control import Steer
from reverie.tasks.follow import Follow
from reverie.tasks.regions import Region, Regions

OUT = Path(__file__).parents[1] / "docs" / "figures"
RED = "a smiling woman with long red hair and round glasses, purple t-shirt, avataaars style"
GREEN = RED.replace("red hair", "green hair")
OTHERS = (
    "an angry man with a brown mustache, green jacket, micah style",
    "a woman with dark skin and a blonde afro, yellow top, open peeps style",
)


def box(image, *at):
    mask = Image.new("L", image.size, 0)
    ImageDraw.Draw(mask).rectangle(at, fill=255)
    return mask


def white(image, mask):
    """A picture with what is to be drawn in white."""
    made = image.copy()
    made.paste("white", mask=mask)
    return made


def edit(system):
    """Strengths."""
    strengths = (0.2, 0.4, 0.5, 0.6, 0.8, 1.0)
    rows, labels = [], []
    for prompt in (RED, *OTHERS):
        image = system.generate(prompt, seed=7)[0]
        new = prompt.replace("red hair", "green hair").replace("brown mustache", "green mohawk").replace("blonde", "pink")
        rows += [image, *(system.edit(image, new, s, seed=3)[0] for s in strengths)]
        labels += ["the picture", *(f"{s:g}" for s in strengths)]
    return sheet(rows, 7, scale=2, below=labels, title="reverie edit: strength, towards another hair")


def inpaint(system):
    """Replacement, and RePaint's jumps."""
    image = system.generate(RED, seed=7)[0]
    mask, prompt = box(image, 16, 22, 48, 38), RED.replace("round glasses", "sunglasses")
    plain = system.inpaint(image, mask, prompt, seed=3, count=3)
    again = system.inpaint(image, mask, prompt, resample=4, seed=3, count=3)
    labels = ["to be drawn", *["replacement"] * 3, "the picture", *["4 resamplings"] * 3]
    return sheet(
        [white(image, mask), *plain, image, *again], 4, scale=2, below=labels, title="reverie inpaint: sunglasses, seeds 3 to 5"
    )


def differential(system):
    """A strength for each pixel."""
    image = system.generate(RED, seed=7)[0]
    ramp = Image.fromarray(np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None], 64, 0))
    made = system.inpaint(image, ramp, GREEN, strength=0.9, seed=3)
    return sheet(
        [image, ramp.convert("RGB"), *made, system.edit(image, GREEN, 0.9, seed=3)[0]],
        4,
        scale=2,
        below=["the picture", "strength 0 to 0.9", "each pixel by its own", "0.9 everywhere"],
        title="reverie inpaint with a grey mask",
    )


def outpaint(system):
    """A larger canvas."""
    image = system.generate(RED, seed=7)[0].crop((16, 0, 48, 64))
    made = [system.outpaint(image, RED, left=16, right=16, resample=4, seed=k)[0] for k in (1, 2, 3)]
    small = Image.new("RGB", made[0].size, "white")
    small.paste(image, (16, 0))
    labels = ["the picture", "seed 1", "seed 2", "seed 3"]
    return sheet([small, *made], 4, scale=2, below=labels, title="reverie outpaint: 16 pixels left and right")


def guidance(system):
    """Weights, and what tames a high one."""
    told = [{"guidance": w} for w in (1.0, 2.0, 3.0, 5.0, 8.0)] + [
        {"guidance": 8.0, "guide": (one,)}
        for one in ("cfg_zero(steps=0)", "apg(eta=0, norm=2.5, momentum=-0.5)", "rescale(phi=0.7)")
    ]
    rows = [system.generate(prompt, seed=7, **how)[0] for prompt in (RED, *OTHERS) for how in told]
    labels = [f"w = {how['guidance']:g}" for how in told[:5]] + ["8, cfg_zero", "8, apg", "8, rescale"]
    return sheet(rows, 8, scale=2, below=labels * 3, title="--guidance, and --guide at 8")


def invert(system):
    """Back to its own noise, and from there under other words."""
    rows = []
    for prompt in (RED, *OTHERS):
        image = system.generate(prompt, seed=7)[0]
        new = prompt.replace("red hair", "green hair").replace("brown mustache", "black beard").replace("blonde", "pink")
        for words in (prompt, new):
            options = {"guidance": 1.0 if words == prompt else 2.0, "steps": 40, "solver": "ddim"}
            rows.append(system.generate(words, tasks=[Invert(image, prompt, 1.0)], **options)[0])
        rows[-2:] = [image, *rows[-2:], system.generate(new, seed=3)[0]]
    labels = ["the picture", "traced back, the same words", "other words", "other words alone"] * 3
    return sheet(rows, 4, scale=2, below=labels, title="reverie edit --invert")


def vary(system):
    """Between two seeds."""
    shares = (0.0, 0.1, 0.2, 0.4, 0.6, 1.0)
    rows = [system.generate(RED, tasks=[Vary(100 + k, s)], seed=7)[0] for k in (0, 1) for s in shares]
    return sheet(rows, 6, scale=2, below=[f"{s:g}" for s in shares] * 2, title="--vary towards seeds 100 and 101")


def upscale(system):
    """A small picture, enlarged and drawn again."""
    image = system.generate(RED, seed=7)[0]
    small = image.resize((32, 32), Image.Resampling.BOX)
    made = [system.upscale(small, RED, 2, strength=s, seed=3)[0] for s in (0.2, 0.4, 0.6)]
    shown = [small.resize((64, 64), Image.Resampling.NEAREST), *made, image]
    return sheet(shown, 5, scale=2, below=["32 pixels", "0.2", "0.4", "0.6", "as it was"], title="reverie upscale: strength")


def both(system):
    """Tasks one after the other: a mask, a strength, and another seed's noise."""
    image = system.generate(RED, seed=7)[0]
    mask = box(image, 0, 0, 63, 20)
    made = [
        system.generate(RED.replace("long red hair", "a blue hat"), tasks=[Vary(9, s), Edit(image, 1.0, mask, 2)], seed=7)[0]
        for s in (0.0, 0.5, 1.0)
    ]
    return sheet([white(image, mask), *made], 4, scale=2, below=["to be drawn", "vary 0", "0.5", "1"], title="a mask and --vary")


def regions(system):
    """A prompt for each half."""
    halves = []
    for side, colours in (("left", ("red", "blue")), ("right", ("green", "yellow"))):
        mask = Image.new("L", (64, 64), 0)
        mask.paste(255, (0, 0, 32, 64) if side == "left" else (32, 0, 64, 64))
        hair, hoodie = colours
        halves.append(Region(mask, f"a woman with long {hair} hair and round glasses, {hoodie} hoodie, avataaars style"))
    whole = "a woman with long hair and round glasses, avataaars style"
    made = [system.generate(whole, tasks=[Regions(tuple(halves))], seed=k)[0] for k in range(4)]
    return sheet(made, 4, scale=2, title="--region: red hair, blue hoodie; green hair, yellow hoodie")


def follow(system):
    """Other words, drawn as the first picture is."""
    rows = []
    for prompt in (RED, *OTHERS):
        new = prompt.replace("red hair", "green hair").replace("brown mustache", "black beard").replace("blonde", "pink")
        rows.append(system.generate(prompt, seed=7)[0])
        rows += [system.generate(new, tasks=tasks, seed=7)[0] for tasks in ([], [Follow(prompt, own=0.4)], [Follow(prompt)])]
    labels = ["the picture", "other words", "Follow(own=0.4)", "--follow"] * 3
    return sheet(rows, 4, scale=2, below=labels, title="--follow: attention as of the first picture, the same seed")


def control(system):
    """Edges of real pictures, and other words."""
    held, steer = avatars().split(256)[1], open_control("avatars-edges", system)
    words = "a smiling woman, purple t-shirt", "an angry person, yellow shirt", ""
    rows, labels = [], []
    for k in range(4):
        image = Image.fromarray(np.ascontiguousarray(held.images[k].transpose(1, 2, 0)))
        style = held.attributes[k]["style"]
        made = [system.generate(text, style=style, tasks=[Steer((steer,), (image,), ("edges()",))], seed=7)[0] for text in words]
        rows += [image, Image.fromarray(edges()(np.asarray(image))), *made]
        labels += [
            "a held-out picture",
            "its edges",
            *("smiling woman, purple t-shirt", "angry person, yellow shirt", "no words"),
        ]
    return sheet(
        rows, 5, scale=2, below=labels, title="--control \"control(net='avatars-edges', image=..., take='edges()')\", seed 7"
    )


def restore(system):
    """What is left of real pictures, and what is found that fits it."""
    held, rng = avatars().split(256)[1], np.random.default_rng(0)
    spoilt = {
        "blur(sigma=1.5)": lambda x: x.filter(ImageFilter.GaussianBlur(1.5)),
        "downsample(factor=4)": lambda x: x.resize((16, 16), Image.Resampling.BOX),
        "mask()": lambda x: white(x, hole),
        "jpeg(quality=10)": lambda x: squeezed(x, 10),
        "grey()": lambda x: x.convert("L"),
    }
    hole, rows, labels = Image.new("L", (64, 64), 0), [], []
    ImageDraw.Draw(hole).rectangle((16, 16, 47, 47), fill=255)
    for k in (1, 3):
        image, words = Image.fromarray(np.ascontiguousarray(held.images[k].transpose(1, 2, 0))), held.caption(k, rng)
        seen, found = [], []
        for operator, spoil in spoilt.items():
            given, mask = spoil(image), hole if operator == "mask()" else None
            seen.append(given.convert("RGB").resize((64, 64), Image.Resampling.NEAREST))
            found.append(system.restore(given, words, operator=operator, noise=0.01, mask=mask, seed=3, steps=16)[0])
        rows += [image, *seen, image, *found]
        labels += ["the picture", *spoilt, "", *["found"] * 5]
    return sheet(rows, 6, scale=2, below=labels, title="reverie restore: held-out pictures, their captions, seed 3")


def squeezed(image, quality):
    """As a JPEG has it."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


FIGURES = {
    figure.__name__: figure
    for figure in (edit, inpaint, differential, outpaint, invert, vary, upscale, both, regions, follow, guidance, control, restore)
}


def main(names: tyro.conf.Positional[tuple[Literal[tuple(FIGURES)], ...]] = (), out: Path = OUT):
    """names: of figures; none = all of them."""
    torch.set_num_threads(1)
    model = reverie.load("reverie-avatars")
    out.mkdir(parents=True, exist_ok=True)
    for name in names or FIGURES:
        FIGURES[name](model).save(out / f"{name}.png")
        print(out / f"{name}.png", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
