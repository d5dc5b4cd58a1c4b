"""ADM's and improved DDPM's files: one net by its own names, with the table of its classes, where it has any.

No tensor tells how many heads share a matrix, nor under which process a net was trained: of the published ones the widths of the
levels do.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from reverie.codec import Pixels
from reverie.denoiser import Clock, Denoiser
from reverie.encode import Classes
from reverie.errors import UserError
from reverie.nets.noisy_classifier import NoisyClassifierConfig
from reverie.nets.unet import UNet, UNetConfig
from reverie.process import rules
from reverie.process.path import Path
from reverie.systems.building import building
from reverie.systems.ddpm.folder import sampling
from reverie.systems.dit.folder import labels
from reverie.systems.names import Layout, filled, renamed
from reverie.systems.single import Single
from reverie.systems.stable_diffusion import original
from reverie.systems.system import System

CLASSES = "label_emb.weight"
MARKS = ("input_blocks.0.0.weight", "time_embed.0.weight", "middle_block.2.in_layers.0.weight")
OF_CLASSIFIER = "out.2.positional_embedding"


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a file does not tell of its net. whole: as of `stable_diffusion.original.unet`. size: side of the pictures."""

    path: Path
    clock: Clock
    size: int
    heads: int = 1
    head_width: int | None = None
    whole: bool = False


def layout(c: UNetConfig, whole: bool = False) -> Layout:
    """The names for a net of this shape, "net.", and its table of classes, "classes."."""
    inner = original.unet(c, whole)
    return lambda key: CLASSES if key == "classes.table.weight" else inner(key.removeprefix("net."))


def classifier(c: NoisyClassifierConfig) -> Layout:
    """The names for the classifier of noised pictures: its way down is called as the net's, and it pools with whole matrices."""
    inner = original.unet(c.body)
    pool = renamed(
        (
            (r"^norm\.", "out.0."),
            (r"^pool\.positions$", "out.2.positional_embedding"),
            *((rf"^pool\.{letter}\.(\w+)$", rf"out.2.qkv_proj.\1[{i}]") for i, letter in enumerate("qkv")),
            (r"^pool\.out\.", "out.2.c_proj."),
        )
    )
    return lambda key: inner(key.removeprefix("body.")) if key.startswith("body.") else pool(key)


def shape(file: Single) -> UNetConfig | None:
    """The shape of the net, whose heads are not told; None where the file holds no such net."""
    if any(mark not in file.tensors for mark in MARKS) or any(".attn2." in k for k in file.tensors):
        return None
    if OF_CLASSIFIER in file.tensors:
        raise UserError(f"{file.path} is ADM's classifier of noised pictures, which draws none: name the file of the net it guides")
    with building(str(file.path), len(file.tensors), "U-Net"):
        return original.unet_of(file.shapes)


def opened(file: Single, config: UNetConfig, training: Training) -> System:
    """The system of a net of this shape that was trained so; UserError where a part is missing or damaged."""
    _check(file, config)
    with building(str(file.path), len(file.tensors), "U-Net"):
        net = UNet(config)
        classes = _classes(file.shapes, 4 * config.channels)
    what = {"net": net} if classes is None else {"net": net, "classes": classes}
    tensors, names = file.tensors, layout(config, training.whole)
    learned = config.out_channels == 2 * config.in_channels
    filled(torch.nn.ModuleDict(what), tensors, names, str(file.path), file.opening.partial)
    return System(
        denoiser=Denoiser(net, training.path, rules.eps(), training.clock, learned_variance=learned, bound=1.0),
        codec=Pixels(config.in_channels),
        encoders={} if classes is None else {"class": classes},
        defaults=sampling(learned, (training.size, training.size)),
    )


def _classes(shapes: Mapping[str, tuple[int, ...]], width: int) -> Classes | None:
    return Classes(labels(None, shapes[CLASSES][0]), width, null=False) if CLASSES in shapes else None


def _check(file: Single, c: UNetConfig) -> None:
    if c.in_channels == 6:
        raise UserError(f"{file.path} enlarges pictures that it is given, and draws none alone: name the file of a net that draws")
    widths = {c.widths[i] for i in c.attention} | {c.widths[-1]}
    if c.head_width is not None and (odd := [w for w in widths if w % c.head_width]):
        raise UserError(f"{file.path}: a level is {odd[0]} wide, and no whole heads of {c.head_width}: no published net is so")
