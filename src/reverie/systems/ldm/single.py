"""Latent diffusion of nothing in particular and of classes, from its authors' files.

They hold two sets of weights of the net, of which the averaged one is sampled with; its names are those of the other without dots.
No tensor tells how many heads share a matrix: of the published ones the shape does.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace

import torch
from torch import Tensor

from reverie.denoiser import Denoiser, timestep
from reverie.encode import Classes
from reverie.errors import UserError
from reverie.nets.autoencoder import Autoencoder, AutoencoderConfig
from reverie.nets.unet import UNet, UNetConfig
from reverie.nets.vq import VQAutoencoder, VQConfig
from reverie.process import rules, schedules
from reverie.process.path import Path
from reverie.systems.building import building
from reverie.systems.dit.folder import labels
from reverie.systems.folders import latent
from reverie.systems.ldm.folder import sampling
from reverie.systems.names import filled
from reverie.systems.single import Single
from reverie.systems.stable_diffusion import original
from reverie.systems.system import System

NET, CODEC, MEAN = "model.diffusion_model.", "first_stage_model.", "model_ema.diffusion_model"
CODES, CLASSES = f"{CODEC}quantize.embedding.weight", "cond_stage_model.embedding.weight"
BERT = "cond_stage_model.transformer.token_emb.weight"
HEAD = 32
"""Width of a head of most of the published nets."""
NULL = 1001
"""Rows of the table of classes whose last is the null class; with 1000 there is none."""


def recognises(file: Single) -> bool:
    """Whether a file holds one of these systems: its net hears nothing, a class, or the words of LDMBert."""
    if f"{NET}input_blocks.0.0.weight" not in file.tensors:
        return False
    return CLASSES in file.tensors or BERT in file.tensors or not any(k.endswith("attn2.to_k.weight") for k in file.tensors)


def open_file(file: Single) -> System:
    """A system from the file; UserError where a part is missing or damaged."""
    if BERT in file.tensors:
        raise UserError(
            f"{file.path} reads prompts with LDMBert, a text encoder of its own, which is not among ours: "
            "take Stable Diffusion 1, its successor"
        )
    with building(str(file.path), len(file.tensors), "latent diffusion"):
        shape = headed(original.unet_of({k[len(NET) :]: v for k, v in file.shapes.items() if k.startswith(NET)}))
        codec = codec_of({k[len(CODEC) :]: v for k, v in file.shapes.items() if k.startswith(CODEC)})
    if shape.in_channels != codec.latent:
        raise UserError(f"{file.path} is told a picture of {shape.in_channels - codec.latent} channels, which no task gives it yet")
    with building(str(file.path), len(file.tensors)):
        net = UNet(shape)
    filled(net, averaged(file), original.unet(shape), f"{file.path}: {NET.rstrip('.')}", file.opening.partial)
    classes = _classes(file)
    build = VQAutoencoder if isinstance(codec, VQConfig) else Autoencoder
    factor = float(file.tensors["scale_factor"]) if "scale_factor" in file.tensors else 1.0
    path = _path(file)
    return System(
        denoiser=Denoiser(net, path, rules.eps(), timestep(path.steps, -1)),
        codec=latent(file.net(CODEC, codec, build, original.vae(codec)), factor, 0.0),
        encoders={} if classes is None else {"class": classes},
        defaults=sampling(classes is not None and classes.null, (256, 256)),
    )


def headed(c: UNetConfig) -> UNetConfig:
    """The shape with the heads of the published net that has it; ValueError where there can be none."""
    if c.biggan or c.context_dim == 1280:
        return replace(c, heads=8, head_width=None)
    if c.context_dim == 512 and c.mult == (1, 2, 3, 5):
        return replace(c, heads=1, head_width=None)
    if any(w % HEAD for w in (*(c.widths[i] for i in c.attention), c.widths[-1])):
        raise ValueError(f"levels of {c.widths} channels have no whole heads of {HEAD}")
    return replace(c, head_width=HEAD)


def codec_of(shapes: original.Shapes) -> AutoencoderConfig:
    """The shape of the autoencoder that has these tensors, with codes or without; KeyError where they are none's."""
    shape = original.vae_of(shapes)
    codes = shapes.get("quantize.embedding.weight")
    return shape if codes is None else VQConfig(**asdict(shape), codes=codes[0])


def averaged(file: Single) -> Mapping[str, Tensor]:
    """The weights of the net, averaged where the file has their average."""
    return {k: file.tensors.get(MEAN + k.replace(".", ""), v) for k, v in file.part(NET).items()}


def _path(file: Single) -> Path:
    """The process: its betas stand in most files; else they are those of most of the published ones."""
    betas = file.tensors.get("betas")
    if betas is None:
        return schedules.scaled_linear_table(1000, 0.0015, 0.0195)
    root = betas.double().sqrt()
    straight = torch.linspace(float(root[0]), float(root[-1]), len(root), dtype=torch.float64) if root.ndim == 1 else root
    if root.ndim != 1 or not torch.allclose(root, straight, rtol=1e-4):
        raise UserError(f"{file.path}: the roots of its betas are on no straight line, as latent diffusion's are: get it again")
    return schedules.scaled_linear_table(len(betas), float(betas[0]), float(betas[-1]))


def _classes(file: Single) -> Classes | None:
    if CLASSES not in file.tensors:
        return None
    rows, width = file.shapes[CLASSES]
    with torch.device("meta"):
        made = Classes(labels(None, rows - (rows == NULL)), width, null=rows == NULL, token=True)
    names = {"table.weight": "weight"}
    table: Classes = filled(made, {"weight": file.tensors[CLASSES]}, names.__getitem__, f"{file.path}: {CLASSES}")
    return table
