"""ADM's classifier of noised pictures from its authors' file (arXiv:2105.05233), for guidance on the table it was trained on."""

from collections.abc import Mapping
from math import isqrt
from pathlib import Path

from reverie.denoiser import timestep
from reverie.errors import UserError
from reverie.measure.noisy import NoisyReader
from reverie.nets.noisy_classifier import NoisyClassifierConfig
from reverie.nets.unet import UNetConfig
from reverie.systems.adm import original
from reverie.systems.building import building, numbered
from reverie.systems.dit.folder import labels
from reverie.systems.names import filled
from reverie.systems.opening import USUAL, Opening
from reverie.systems.single import Single

DEPTHS = (2, 4)
"""Blocks a level of the published ones, which no tensor tells; the smallest picture is of 64 pixels."""


def opened(path: Path, opening: Opening = USUAL) -> NoisyReader:
    """The classifier in a file; UserError where there is none, or a part is missing."""
    file = Single(path, opening)
    if original.OF_CLASSIFIER not in file.tensors:
        raise UserError(f"{path} judges no noised points: name a reader of ours, or ADM's classifier")
    with building(str(path), len(file.tensors), "classifier"):
        config = shape(file.shapes)
        reader = NoisyReader(config, labels(None, config.classes), timestep(1000.0, -1.0))
    filled(reader.net, file.tensors, original.classifier(config), str(path), opening.partial)
    reader.eval().requires_grad_(False)
    return reader


def shape(shapes: Mapping[str, tuple[int, ...]]) -> NoisyClassifierConfig:
    """The shape of the classifier that has these tensors; KeyError or ValueError where they are of none."""
    channels, count = shapes["time_embed.0.weight"][1], numbered(shapes, r"input_blocks\.(\d+)\.")
    places = isqrt(shapes[original.OF_CLASSIFIER][1] - 1)
    fits = [n for n in DEPTHS if not count % (n + 1) and places * 2 ** (count // (n + 1) - 1) >= 64]
    if not fits:
        raise ValueError(f"{count} blocks on the way down")
    blocks, levels = fits[0], count // (fits[0] + 1)
    firsts = [f"input_blocks.{1 + i * (blocks + 1)}" for i in range(levels)]
    widths = [shapes[f"{first}.0.in_layers.2.weight"][0] for first in firsts]
    body = UNetConfig(
        in_channels=shapes["input_blocks.0.0.weight"][1],
        channels=channels,
        mult=tuple(w / channels if w % channels else w // channels for w in widths),
        blocks=blocks,
        attention=tuple(i for i, first in enumerate(firsts) if f"{first}.1.qkv.weight" in shapes),
        head_width=64,
        scale_shift=shapes[f"{firsts[0]}.0.emb_layers.1.weight"][0] == 2 * widths[0],
        biggan=f"input_blocks.{blocks + 1}.0.in_layers.2.weight" in shapes,
    )
    classes = shapes["out.2.c_proj.weight"][0]
    return NoisyClassifierConfig(body=body, size=places * 2 ** (levels - 1), classes=classes)
