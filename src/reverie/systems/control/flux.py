"""ControlNets of Flux, as diffusers has them. Union controls, which are told a mode, and XLabs', which hear pixels, are refused."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reverie.errors import UserError
from reverie.nets.control_transformer import ControlTransformer, ControlTransformerConfig
from reverie.nets.mmdit import MMDiTConfig
from reverie.systems.building import numbered
from reverie.systems.flux import transformer
from reverie.systems.folders import Kind
from reverie.systems.names import Layout, renamed

MARK = "controlnet_x_embedder.weight"
MODES, PIXELS = "controlnet_mode_embedder.weight", "input_hint_block.conv_in.weight"
OWN = ("num_mode", "conditioning_embedding_channels")
UNION = "is a union of several controls, which must be told which of them is meant; there is no such net here: get a single one"
HINTS = "hears pixels through an encoder of its own (XLabs), and there is no such net here: get one that hears encoded pictures"


def config(theirs: Mapping[str, Any], base: MMDiTConfig, what: str = "config.json") -> ControlTransformerConfig:
    """Our shape of what a configuration of FluxControlNetModel describes; UserError where we have no such net."""
    for field, why in zip(OWN, (UNION, HINTS), strict=True):
        if theirs.get(field) is not None:
            raise UserError(f"{what}: this control {why}")
    shape = transformer.config({k: v for k, v in theirs.items() if k not in OWN}, what)
    whole = replace(shape, depth=max(base.depth, shape.depth), single=max(base.single, shape.single))
    return _made(whole, shape.depth, shape.single)


def of_file(shapes: Mapping[str, tuple[int, ...]], base: MMDiTConfig, what: str) -> ControlTransformerConfig:
    """The shape of the control of a base in a file that says none."""
    for mark, why in ((MODES, UNION), (PIXELS, HINTS)):
        if mark in shapes:
            raise UserError(f"{what}: this control {why}")
    counts = [numbered(shapes, rf"controlnet_{each}blocks\.(\d+)\.") for each in ("", "single_")]
    return _made(replace(base, guided="time_text_embed.guidance_embedder.linear_1.weight" in shapes), counts[0], counts[1])


def _made(body: MMDiTConfig, blocks: int, single: int) -> ControlTransformerConfig:
    return ControlTransformerConfig(body=body, blocks=blocks, single=single, spread="groups", latent=True)


def layout(c: ControlTransformerConfig) -> Layout:
    """diffusers' names."""
    rules = [(rf"^zeros\.{c.blocks + i}\.", f"controlnet_single_blocks.{i}.") for i in range(c.single)]
    own = renamed(((r"^hint\.", "controlnet_x_embedder."), *rules, (r"^zeros\.", "controlnet_blocks.")))
    return lambda key: transformer.layout(key.removeprefix("body.")) if key.startswith("body.") else own(key)


def said(c: ControlTransformerConfig) -> dict[str, Any]:
    """The configuration of FluxControlNetModel that describes our shape."""
    if not c.latent or c.spread != "groups" or not isinstance(c.body, MMDiTConfig):
        raise UserError("diffusers' FluxControlNetModel hears encoded pictures: this control cannot be written as one")
    body = transformer.said(replace(c.body, depth=max(c.blocks, 1), single=c.single))
    return {**{k: v for k, v in body.items() if k != "out_channels"}, "num_layers": c.blocks}


def kind(base: MMDiTConfig) -> Kind:
    """How folders hold the controls of a base."""
    return Kind(
        name="FluxControlNetModel",
        build=ControlTransformer,
        config=lambda theirs, what: config(theirs, base, what),
        said=said,
        layout=layout,
    )
