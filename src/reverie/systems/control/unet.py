"""ControlNets of Stable Diffusion 1, 2 and XL: as diffusers has them, and by the names of their authors (arXiv:2302.05543)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reverie.errors import UserError
from reverie.nets.control import ControlNet, ControlNetConfig
from reverie.nets.unet import UNetConfig
from reverie.systems.building import numbered
from reverie.systems.folders import Kind
from reverie.systems.names import Layout, renamed
from reverie.systems.stable_diffusion import original, unet

MARK, OURS = "controlnet_cond_embedding.conv_in.weight", "input_hint_block.0.weight"
"""Keys of diffusers' files, and of the authors'."""
PREFIX = "control_model."
"""What stands before the authors' names in files that may hold the rest of the model, too."""
OWN = {
    "conditioning_channels": 3,
    "conditioning_embedding_out_channels": (16, 32, 96, 256),
    "controlnet_conditioning_channel_order": "rgb",
    "global_pool_conditions": False,
    "act_fn": "silu",
}
"""Of a configuration what is the control's own, where a field is left out."""


def config(theirs: Mapping[str, Any], what: str = "config.json") -> ControlNetConfig:
    """Our shape of what a configuration of ControlNetModel describes; UserError where we have no such net."""
    own = {k: theirs.get(k, default) for k, default in OWN.items()}
    if own["controlnet_conditioning_channel_order"] != "rgb":
        raise UserError(f"{what}: its picture has the colours in the order {own['controlnet_conditioning_channel_order']}, not rgb")
    body = {k: v for k, v in theirs.items() if k not in OWN}
    widths = tuple(own["conditioning_embedding_out_channels"])
    return ControlNetConfig(
        body=unet.config({**body, "out_channels": theirs["in_channels"]}, what),
        hint_channels=own["conditioning_channels"],
        factor=2 ** (len(widths) - 1),
        widths=widths,
        unit=True,
        pooled=own["global_pool_conditions"],
    )


def layout(c: ControlNetConfig) -> Layout:
    """diffusers' names."""
    return _joined(
        unet.layout,
        (
            (r"^hint\.stem\.", "controlnet_cond_embedding.conv_in."),
            (r"^hint\.body\.", "controlnet_cond_embedding.blocks."),
            (r"^hint\.out\.", "controlnet_cond_embedding.conv_out."),
            (rf"^zeros\.{_zeros(c)}\.", "controlnet_mid_block."),
            (r"^zeros\.", "controlnet_down_blocks."),
        ),
    )


def authors(c: ControlNetConfig) -> Layout:
    """The authors' names: layers of the encoder are numbered with the activations between them."""
    last = len(c.widths) - 1
    return _joined(
        original.unet(c.body),
        (
            (r"^hint\.stem\.", "input_hint_block.0."),
            *((rf"^hint\.body\.{i}\.", f"input_hint_block.{2 * i + 2}.") for i in range(2 * last)),
            (r"^hint\.out\.", f"input_hint_block.{4 * last + 2}."),
            (rf"^zeros\.{_zeros(c)}\.", "middle_block_out.0."),
            (r"^zeros\.(\d+)\.", r"zero_convs.\1.0."),
        ),
    )


def _zeros(c: ControlNetConfig) -> int:
    """Skips, whose layers come before that of the bottom."""
    levels = len(c.body.mult)
    return levels * (c.body.blocks + 1)


def _joined(body: Layout, rules: tuple[tuple[str, str], ...]) -> Layout:
    own = renamed(rules)
    return lambda key: body(key.removeprefix("body.")) if key.startswith("body.") else own(key)


def of_file(shapes: Mapping[str, tuple[int, ...]], base: UNetConfig) -> ControlNetConfig:
    """The shape of the control of a base in a file that says none; KeyError or ValueError where it has none."""
    theirs = MARK in shapes
    stem = "conv_in.weight" if theirs else "input_blocks.0.0.weight"
    if theirs:
        steps = numbered(shapes, r"controlnet_cond_embedding\.blocks\.(\d+)\.") // 2
        ends = [f"controlnet_cond_embedding.blocks.{2 * i + 1}.weight" for i in range(steps)]
    else:
        count = len({k.split(".")[1] for k in shapes if k.startswith("input_hint_block.")})
        ends = [f"input_hint_block.{4 * i + 4}.weight" for i in range((count - 2) // 2)]
    first = shapes[MARK if theirs else OURS]
    return ControlNetConfig(
        body=replace(base, in_channels=shapes[stem][1], out_channels=shapes[stem][1]),
        hint_channels=first[1],
        factor=2 ** len(ends),
        widths=(first[0], *(shapes[end][0] for end in ends)),
        unit=True,
    )


def said(c: ControlNetConfig) -> dict[str, Any]:
    """The configuration of ControlNetModel that describes our shape."""
    if not c.unit or 2 ** (len(c.widths) - 1) != c.factor:
        raise UserError("diffusers' ControlNetModel hears pictures in [0, 1], halved by all of its widths: this one is not written")
    body = {k: v for k, v in unet.said(c.body).items() if k not in ("out_channels", "up_block_types", "dropout")}
    return {
        **body,
        "conditioning_channels": c.hint_channels,
        "conditioning_embedding_out_channels": list(c.widths),
        "global_pool_conditions": c.pooled,
    }


def whose(c: UNetConfig) -> str:
    """The systems that such a U-Net is of, by the width of the tokens."""
    known = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
    width = c.context_dim or 0
    return known.get(width, f"a U-Net of {c.channels} channels with tokens of {width}")


KIND = Kind(name="ControlNetModel", build=ControlNet, config=config, said=said, layout=layout)
