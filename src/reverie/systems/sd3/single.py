"""Stable Diffusion 3 and 3.5 from the publisher's single files, with or without their encoders of words."""

import math
from typing import Any

from reverie.denoiser import Denoiser, timestep
from reverie.encode.clip import Clip
from reverie.nets.mmdit import MMDiT, MMDiTConfig
from reverie.process import rules, schedules
from reverie.systems.building import building, numbered
from reverie.systems.sd3.folder import sampling
from reverie.systems.sd3.prompt import ROWS, PromptSD3
from reverie.systems.sd3.transformer import PREFIX, original
from reverie.systems.single import Single
from reverie.systems.stable_diffusion.single import autoencoder
from reverie.systems.system import System

WORDS = "text_encoders.clip_"
HEAD, SIZE = 64, 1024


def recognises(file: Single) -> bool:
    """Whether a file holds one of these systems."""
    return f"{PREFIX}joint_blocks.0.context_block.adaLN_modulation.1.bias" in file.tensors


def open_file(file: Single) -> System:
    """A system from the file; UserError where a part is missing or damaged."""
    with building(str(file.path), len(file.tensors), "Stable Diffusion 3"):
        shape = _shape(file)
    net = file.net(PREFIX, shape, MMDiT, original)
    return System(
        denoiser=Denoiser(net, schedules.flow(), rules.velocity(), timestep(1000.0)),
        codec=autoencoder(file, 1.5305, 0.0609),
        encoders={"prompt": _prompt(file, shape.context_dim)},
        defaults=sampling(shape, "shifted(shift=3.0)", SIZE),
    )


def _prompt(file: Single, width: int) -> PromptSD3:
    """T5, whose words no file holds, is read where a folder is named that has it; else it is left out."""
    near = file.beside if not any(k.startswith(WORDS) for k in file.tensors) else None
    if near is None and not any(k.startswith(WORDS) for k in file.tensors):
        near = file.lacking("encoder of words")
    clips: list[Clip] = []
    for letter, number in (("l", ""), ("g", "_2")):
        options: dict[str, Any] = {"projected": True, "skip": 1, "raw": True}
        clips.append(
            file.clip(f"{WORDS}{letter}.", quick=letter == "l", **options) if near is None else near.clip(number, **options)
        )
    far = file.beside if file.beside is not None and file.beside.has("text_encoder_3") else None
    return PromptSD3(clips, None if far is None else far.t5("_3", length=ROWS), width=width)


def _shape(file: Single) -> MMDiTConfig:
    shapes = {k[len(PREFIX) :]: v for k, v in file.shapes.items() if k.startswith(PREFIX)}
    width, channels, patch = shapes["x_embedder.proj.weight"][:3]
    depth = numbered(shapes, r"joint_blocks\.(\d+)\.")
    return MMDiTConfig(
        in_channels=channels,
        patch=patch,
        width=width,
        heads=width // HEAD,
        depth=depth,
        dual=sum(f"joint_blocks.{i}.x_block.attn2.qkv.weight" in shapes for i in range(depth)),
        context_dim=shapes["context_embedder.weight"][1],
        vector_dim=shapes["y_embedder.mlp.0.weight"][1],
        qk_norm="joint_blocks.0.x_block.attn.ln_q.weight" in shapes,
        size=SIZE // 8 // patch,
        table=math.isqrt(shapes["pos_embed"][1]),
    )
