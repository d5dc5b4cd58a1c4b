"""Image prompts (IP-Adapter, arXiv:2308.06721): encoders of pictures, the attentions that a model has for them, and the names by
which their authors write the base and the plus variants of Stable Diffusion 1 and XL."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from reverie.adapt.image_prompt import sites as sites_of
from reverie.card import rebuild, remembers
from reverie.encode import from_folder
from reverie.encode.clip_vision import ClipVision
from reverie.encode.from_tensors import completed
from reverie.encode.lite0 import lite0
from reverie.errors import UserError
from reverie.nets.image_prompt import ImagePromptConfig
from reverie.nets.looking import Kind
from reverie.nets.unet import UNetConfig
from reverie.nets.word_encoder import WordEncoderConfig
from reverie.systems.building import building, numbered
from reverie.systems.folders import Folder
from reverie.systems.names import Layout, filled, renamed
from reverie.systems.system import System

MARK = "ip_adapter.1.to_k_ip.weight"
LINEAR, QUERIES = "image_proj.proj.weight", "image_proj.latents"
OTHERS = (("image_proj.perceiver_resampler.proj_in.weight", "FaceID plus"), ("image_proj.proj.3.weight", "full face"))
FACE = "FaceID"
EYE = "CLIPVisionModelWithProjection"


def sites(c: UNetConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Widths of the cross-attentions of a U-Net in the order of an evaluation, and their numbers in the files of others.

    These count the way down, the way up, and the bottom last, and every self-attention between.
    """
    depth = [c.depth if isinstance(c.depth, int) else c.depth[i] for i in range(len(c.mult))]
    down = [c.widths[i] for i in sorted(c.attention) for _ in range(c.blocks * depth[i])]
    up = [c.widths[i] for i in sorted(c.attention, reverse=True) for _ in range((c.blocks + 1) * depth[i])]
    bottom = [c.widths[-1]] * (depth[-1] if c.middle else 0)
    places = [*range(len(down)), *range(len(down) + len(up), len(down) + len(up) + len(bottom))]
    places += range(len(down), len(down) + len(up))
    return (*down, *bottom, *up), tuple(2 * place + 1 for place in places)


def config(shapes: Mapping[str, tuple[int, ...]], base: UNetConfig, what: str) -> ImagePromptConfig:
    """The shape of the adapter in a file; UserError where we have none like it, KeyError or ValueError where it is damaged."""
    for mark, kind in (*OTHERS, ("image_proj.proj.0.weight", FACE)):
        if mark in shapes:
            raise UserError(
                f"{what} is an IP-Adapter {kind}, which reads faces, and is not there yet: get the base or the plus variant"
            )
    widths, width = sites(base)[0], shapes[MARK][1]
    if width != base.context_dim:
        raise UserError(
            f"{what} is an IP-Adapter whose tokens are {width} wide (768: Stable Diffusion 1, 2048: XL), and those of the model "
            f"are {base.context_dim} wide: get the one of this model"
        )
    if LINEAR in shapes:
        rows, embed = shapes[LINEAR]
        return ImagePromptConfig(embed=embed, tokens=rows // width, width=width, sites=widths)
    _, tokens, hidden = shapes[QUERIES]
    return ImagePromptConfig(
        kind="resampler",
        embed=shapes["image_proj.proj_in.weight"][1],
        tokens=tokens,
        width=width,
        sites=widths,
        hidden=hidden,
        heads=shapes["image_proj.layers.0.0.to_q.weight"][0] // 64,
        depth=numbered(shapes, r"image_proj\.layers\.(\d+)\."),
        ratio=shapes["image_proj.layers.0.1.1.weight"][0] // hidden,
    )


def layout(base: UNetConfig) -> Layout:
    """The authors' names."""
    numbers = sites(base)[1]
    rules = [(rf"^([kv])\.{i}\.", rf"ip_adapter.{n}.to_\1_ip.") for i, n in enumerate(numbers)]
    return renamed(
        (
            *rules,
            (r"^tokens\.linear\.", "image_proj.proj."),
            (r"^tokens\.queries$", QUERIES),
            (r"^tokens\.enter\.", "image_proj.proj_in."),
            (r"^tokens\.leave\.", "image_proj.proj_out."),
            (r"^tokens\.layers\.(\d+)\.norm_x\.", r"image_proj.layers.\1.0.norm1."),
            (r"^tokens\.layers\.(\d+)\.norm_q\.", r"image_proj.layers.\1.0.norm2."),
            (r"^tokens\.layers\.(\d+)\.q\.", r"image_proj.layers.\1.0.to_q."),
            (r"^tokens\.layers\.(\d+)\.k\.(\w+)$", r"image_proj.layers.\1.0.to_kv.\2[0]"),
            (r"^tokens\.layers\.(\d+)\.v\.(\w+)$", r"image_proj.layers.\1.0.to_kv.\2[1]"),
            (r"^tokens\.layers\.(\d+)\.out\.", r"image_proj.layers.\1.0.to_out."),
            (r"^tokens\.layers\.(\d+)\.norm\.", r"image_proj.layers.\1.1.0."),
            (r"^tokens\.layers\.(\d+)\.up\.", r"image_proj.layers.\1.1.1."),
            (r"^tokens\.layers\.(\d+)\.down\.", r"image_proj.layers.\1.1.3."),
        )
    )


def norm(c: ImagePromptConfig) -> str:
    """The name of the norm of the tokens."""
    return "image_proj.norm." if c.kind == "projection" else "image_proj.norm_out."


def named(c: ImagePromptConfig, base: UNetConfig) -> Layout:
    """The authors' names, for this variant."""
    rest, last = layout(base), norm(c)
    return lambda key: key.replace("tokens.norm.", last) if key.startswith("tokens.norm.") else rest(key)


@remembers
def clip(folder: str) -> ClipVision:
    """CLIP's image encoder from a folder of transformers' layout; UserError where it is damaged or none."""
    return _clip(Path(folder))


def _clip(folder: Path, partial: bool = False) -> ClipVision:
    folder = folder.resolve()
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is not there: an IP-Adapter needs the image encoder that it was trained with; name its folder")
    whole = Folder(folder.parent)
    whole.json(f"{folder.name}/config.json")
    tensors = whole.tensors(folder.name)
    with building(str(folder), len(tensors), "image encoder of CLIP"):
        net = from_folder.built(EYE, folder)
    names = {k: v for k, v in tensors.items() if not k.endswith("position_ids")}
    filled(net, names, lambda key: key, str(folder), partial)
    places = completed(net).vision_model.embeddings
    places.position_ids = torch.arange(places.num_positions)[None]
    return ClipVision(net)


EYES = (lite0, clip)
"""Encoders of pictures, written as calls."""


def seeing(card: Mapping[str, Any], folder: Path, where: str, partial: bool = False) -> Any:
    """The encoder of a card; CLIP's lies in a folder, which files do not name."""
    if card.get("name") == "clip":
        return _clip(folder, partial)
    return rebuild(card, EYES, f"{where}: about.eye")


def check_sites(c: ImagePromptConfig, base: System, what: str) -> None:
    """UserError unless the adapter looks in at the attentions that the model has, and is heard where that hears words."""
    at, widths, vector = attentions(base)
    if (c.at, c.sites) != (at, widths):
        said = f"{len(c.sites)} attentions ({c.at}, {max(c.sites)} wide), and {base.name} has {len(widths)} ({at}, {max(widths)})"
        raise UserError(f"{what} looks in at {said}: name the model that it was trained on")
    if c.vector not in (0, vector):
        said = f"says a vector of {c.vector} numbers, and {base.name} hears words by one of {vector}"
        raise UserError(f"{what} {said}: name the model that it was trained on")


def attentions(base: System) -> tuple[Kind, tuple[int, ...], int]:
    """Those of a system at which an image prompt looks in, by asking it once, and `vector_of` it."""
    model, encoder = base.denoiser, base.prompt_encoder
    x = torch.zeros(1, *base.codec.shape(*base.defaults.size), device=model.place)
    return *sites_of(model, x, None if encoder is None else encoder.prompts([""])), vector_of(base)


def vector_of(base: System) -> int:
    """The width of the vector by which it hears words; 0 where it hears none, or by attention."""
    cond = None if base.prompt_encoder is None else base.prompt_encoder.prompts([""])
    return 0 if cond is None or cond.vector is None or cond.tokens is not None else cond.vector.shape[1]


def check_eye(seen: Any, c: ImagePromptConfig | WordEncoderConfig, what: str, folder: Path) -> None:
    """UserError unless the adapter reads what this encoder says."""
    if (width := seen.width(c.kind != "projection")) != c.embed:
        raise UserError(
            f"{what} reads pictures as {c.embed} numbers, and the image encoder in {folder} says {width}: name the folder of the "
            "one that it was trained with"
        )
