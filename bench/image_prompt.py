"""What an image prompt is worth: how much of a picture is found again in what is drawn from it.

    reverie train avatars-picture --out runs/avatars-picture
    python bench/image_prompt.py runs/avatars-picture

Held-out avatars are the prompts; each row begins with the same noise, and has the same steps of dpmpp-2m and the same guidance.
same: the share of a picture's own attributes that the shipped reader finds in what is drawn. hair colour: the same of that alone.
distance: of `measure/perceptual.py` to the picture. kid x 1000 in EfficientNet-Lite0, to held-out pictures that are no prompts.
Rows: `nothing` and `words` have no picture, and no words or the captions; `picture` has no words, `both` both, and `recoloured` the
picture and the words of another hair colour alone, whose share of heeded ones stands under `asked`, and under `same` the attributes
but for that. `another` are other people's pictures, the floor; `codec` the pictures as the model's codec draws them, the ceiling.
Rows of the same setting are replaced.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from rows import put

from reverie.adapt import ImagePrompted
from reverie.card import parse, rebuild
from reverie.data.avatars import avatars
from reverie.guide import cfg
from reverie.measure.agreement import agreement
from reverie.measure.distances import kid
from reverie.measure.features import imagenet
from reverie.measure.perceptual import perceptual
from reverie.process.grids import GRIDS
from reverie.rng import Rng, digest
from reverie.solve import named, sample
from reverie.systems.control import open_image_prompt
from reverie.systems.shipped import open_model, open_reader
from reverie.train.jobs import to_pictures, to_signal

KEY = ("image prompt", "row", "weight", "guidance", "n", "steps")
FIELDS = (*KEY, "same", "hair colour", "asked", "distance", "kid x 1000")
COLOUR = "hair_color"


@dataclass
class Bench:
    prompt: tyro.conf.Positional[Path]
    model: str = "reverie-avatars"
    weight: float = 1.0
    guidance: float = 3.0
    samples: int = 120
    steps: int = 10
    batch: int = 40
    out: Path = Path("bench/results/image-prompt.csv")


@torch.no_grad()
def drawn(bench, system, adapter, said, pictures):
    """uint8 (N, C, H, W): picture k begins with the noise of seed k; pictures uint8 (N, C, H, W) or none."""
    encoder, path, made = system.prompt_encoder, system.denoiser.path, []
    model = system.denoiser if pictures is None else ImagePrompted(system.denoiser, [adapter])
    grid = rebuild(parse(system.defaults.grid), GRIDS, "grid")(path, bench.steps)
    for first in range(0, len(said), bench.batch):
        some = said[first : first + bench.batch]
        cond, empty = encoder.prompts(some), encoder.prompts([""] * len(some))
        if pictures is not None:
            x = to_signal(pictures[first : first + bench.batch])
            cond, empty = replace(cond, images=adapter.tokens(x)), replace(empty, images=adapter.empty(x))
        rng = Rng.of(first, len(some))
        x = path.prior((len(some), *system.codec.shape(*system.defaults.size)), grid[0], rng=rng, spread=1.0)
        z = sample(cfg(model, bench.guidance, empty), x, grid, named("dpmpp-2m")[0], cond=cond, rng=rng)
        made.append(to_pictures(system.codec.decode(z)))
    return np.concatenate(made)


def recoloured(own, colours):
    """The attributes with another hair colour, none where there is no hair to colour."""
    if own.get(COLOUR) not in colours:
        return own
    return own | {COLOUR: colours[(colours.index(own[COLOUR]) + 3) % len(colours)]}


def main(bench):
    torch.set_num_threads(1)
    held, reader, see, apart = avatars().split(256)[1], open_reader("avatars"), imagenet(), perceptual()
    real, rest, own = held.images[: bench.samples], held.images[bench.samples :], list(held.attributes[: bench.samples])
    system = open_model(bench.model)
    adapter = open_image_prompt(bench.prompt, system, weight=bench.weight)
    captions = [held.caption(k, np.random.default_rng(digest("bench", k))) for k in range(len(real))]
    mute, colours = [""] * len(real), sorted({a[COLOUR] for a in own if COLOUR in a})
    changed = [recoloured(a, colours) for a in own]
    words = [f"{new[COLOUR]} hair" if new != old else "" for new, old in zip(changed, own, strict=True)]
    made = {
        "codec": to_pictures(system.codec.decode(system.codec.encode(to_signal(real)))),
        "another": np.roll(real, 1, 0),
        "nothing": drawn(bench, system, None, mute, None),
        "words": drawn(bench, system, None, captions, None),
        "picture": drawn(bench, system, adapter, mute, real),
        "both": drawn(bench, system, adapter, captions, real),
        "recoloured": drawn(bench, system, adapter, words, real),
    }
    far, rows = see(rest), []
    for name, pictures in made.items():
        read, other = reader.read(pictures), name == "recoloured"
        wanted = [{k: v for k, v in a.items() if k != COLOUR} for a in own] if other else own
        found, hair = agreement(wanted, read, reader.values), [{COLOUR: a[COLOUR]} if COLOUR in a else {} for a in own]
        new = [{COLOUR: c[COLOUR]} if c != a else {} for c, a in zip(changed, own, strict=True)]
        row = {"image prompt": bench.prompt.name, "row": name, "weight": bench.weight, "guidance": bench.guidance}
        row |= {"n": len(real), "steps": bench.steps, "same": f"{found.overall:.3f}"}
        row |= {"hair colour": f"{agreement(hair, read, reader.values).overall:.3f}"}
        row |= {"asked": f"{agreement(new, read, reader.values).overall:.3f}" if other else ""}
        gaps = [float(apart(to_signal(real[k : k + 1]), to_signal(pictures[k : k + 1]))) for k in range(len(real))]
        rows.append(row | {"distance": f"{np.mean(gaps):.3f}", "kid x 1000": f"{1000 * kid(far, see(pictures))[0]:.1f}"})
        print(rows[-1], flush=True)
    put(bench.out, FIELDS, KEY, rows)


if __name__ == "__main__":
    main(tyro.cli(Bench))
