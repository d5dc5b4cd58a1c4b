"""What others call the layers of a system, in files of changes: every name that there is, and the weights that it means.

Paths are those of diffusers' folders or of the publisher's single file, behind a prefix, with dots (PEFT, diffusers, ComfyUI) or
with _ for every dot (kohya, OneTrainer, LyCORIS). A net that nobody else has is named by our own paths.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from reverie.encode.clip import Clip
from reverie.encode.t5 import T5
from reverie.encode.words import Words
from reverie.errors import UserError
from reverie.nets.mmdit import MMDiTConfig
from reverie.nets.pixart import PixArtConfig
from reverie.nets.sana import SanaConfig
from reverie.nets.stack import Stack
from reverie.nets.unet import UNetConfig
from reverie.systems.flux import transformer as flux
from reverie.systems.folders import Kind
from reverie.systems.names import Layout, stacks
from reverie.systems.pixart import transformer as pixart
from reverie.systems.sana import transformer as sana
from reverie.systems.sd3 import transformer as sd3
from reverie.systems.stable_diffusion import original as stable_diffusion
from reverie.systems.stable_diffusion import unet
from reverie.systems.system import System

DOTTED = ("", "unet.", "transformer.", "diffusion_model.", "model.diffusion_model.", "base_model.model.")
FLAT = ("lora_unet_", "lora_transformer_", "lycoris_", "lycoris_unet_", "lycoris_transformer_")
GENERIC = "diffusion_model."
"""The prefix that ours are written with."""
OWN = "text_encoders."
"""That of an encoder which nobody else has."""
ENCODERS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "first": (("text_encoder.", "text_encoders.clip_l.transformer."), ("lora_te_", "lora_te1_", "lycoris_text_encoder_")),
    "second": (("text_encoder_2.", "text_encoders.clip_g.transformer."), ("lora_te2_",)),
    "t5": (("text_encoder_3.", "text_encoders.t5xxl.transformer."), ("lora_te3_",)),
    "t5 as second": (
        ("text_encoder_2.", "text_encoder_3.", "text_encoders.t5xxl.transformer."),
        ("lora_te2_", "lora_te3_"),
    ),
}
"""Prefixes of the encoders of words, dotted and flat."""


def weights(system: System) -> dict[str, Tensor]:
    """Every weight that may be changed, by our names: `net.<path>` and `encoder.<path>`."""
    net = getattr(system.denoiser, "net", None)
    if not isinstance(net, nn.Module):
        raise UserError(f"{system.name} has no net whose weights could be changed")
    parts: dict[str, Any] = {"net": net, "encoder": system.prompt_encoder}
    return {f"{name}.{k}": v for name, part in parts.items() if isinstance(part, nn.Module) for k, v in part.named_parameters()}


def places(system: System) -> dict[str, Stack]:
    """{name of a layer in a file, with its prefix: our weights}; biases are behind the name with ".bias"."""
    own = weights(system)
    net = {k.removeprefix("net."): v for k, v in own.items() if k.startswith("net.")}
    out: dict[str, Stack] = {}
    for layout in layouts(getattr(system.denoiser.net, "config", None)):
        out |= _named(net, layout, "net.", DOTTED, FLAT)
    if isinstance(system.prompt_encoder, Words):
        words = {k.removeprefix("encoder."): v for k, v in own.items() if k.startswith("encoder.")}
        out |= _named(words, lambda key: key, "encoder.", (OWN,), ())
    for name, path, module in encoders(system.prompt_encoder):
        dotted, flat = ENCODERS[name]
        inside = {k: v for k, v in module.named_parameters()}
        for layout in (_bare, _clothed):  # of CLIP the files have a level that transformers 5 leaves out, or not
            out |= _named(inside, layout, f"encoder.{path}", dotted, flat)
    return out


def layouts(c: Any) -> Iterator[Layout]:
    """What the weights of a net of this shape are called: by us, and by those who have such a net."""
    yield lambda key: key
    known: list[tuple[Kind, Layout | None]] = []
    if isinstance(c, UNetConfig) and c.context_dim is not None:
        known = [(unet.KIND, stable_diffusion.unet(c))]
    elif isinstance(c, MMDiTConfig):
        known = [(flux.KIND, flux.original)] if c.packed else [(sd3.KIND, sd3.original)]
    elif isinstance(c, PixArtConfig):
        known = [(pixart.KIND, None)]
    elif isinstance(c, SanaConfig):
        known = [(sana.KIND, None)]
    for kind, published in known:
        try:
            kind.said(c)
        except UserError:
            continue  # a shape of ours alone
        yield kind.layout(c)
        if published is not None:
            yield published


def encoders(encoder: Any, path: str = "") -> Iterator[tuple[str, str, nn.Module]]:
    """The nets of transformers within: which of `ENCODERS`, our path to it, and it."""
    if isinstance(encoder, (Clip, T5)):
        yield "first", f"{path}net.", encoder.net
    clips = list(getattr(encoder, "clips", ()))
    for k, clip in enumerate(clips):
        yield "first" if k == 0 and len(clips) > 1 else "second", f"{path}clips.{k}.net.", clip.net
    if isinstance(clip := getattr(encoder, "clip", None), Clip):
        yield "first", f"{path}clip.net.", clip.net
    if isinstance(words := getattr(encoder, "t5", None), T5):
        yield "t5" if clips else "t5 as second", f"{path}t5.net.", words.net


def prefixes(encoder: Any) -> Iterator[tuple[str, nn.Module]]:
    """The nets of words that learn with a model: what their layers are written behind, and they. T5 is not changed."""
    if isinstance(encoder, Words):
        yield OWN, encoder
    for name, _, module in encoders(encoder):
        if not name.startswith("t5") and not isinstance(encoder, T5):
            yield ENCODERS[name][0][-1], module


def _named(
    own: Mapping[str, Tensor], layout: Layout, path: str, dotted: tuple[str, ...], flat: tuple[str, ...]
) -> dict[str, Stack]:
    found = {name: Stack([f"{path}{key}" for key in stack.keys], stack.rounds) for name, stack in stacks(own, layout, "").items()}
    out = {}
    for name, stack in found.items():
        layer, _, kind = name.rpartition(".")
        for prefix in dotted:
            out[prefix + layer + _tail(kind)] = stack
        for prefix in flat:
            out[prefix + layer.replace(".", "_") + _tail(kind)] = stack
    return out


def _tail(kind: str) -> str:
    return "" if kind == "weight" else f".{kind}"


def _bare(key: str) -> str:
    return key.removeprefix("text_model.")


def _clothed(key: str) -> str:
    return key if key.startswith(("text_model.", "encoder.block", "shared.")) else f"text_model.{key}"
