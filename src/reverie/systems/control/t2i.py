"""T2I-adapters of Stable Diffusion 1 and XL: as diffusers has them, and by the names of their authors (arXiv:2302.08453)."""

from collections.abc import Callable, Mapping
from typing import Any

from reverie.errors import UserError
from reverie.nets.t2i import T2IAdapter, T2IConfig
from reverie.nets.unet import UNetConfig
from reverie.systems.building import known, numbered
from reverie.systems.folders import Kind
from reverie.systems.names import Layout, renamed

KINDS = {"full_adapter": "full", "full_adapter_xl": "xl", "light_adapter": "light"}
PREFIX = "adapter."
"""What stands before diffusers' names, and not before the authors'."""
LEVEL = "body.0.resnets.0.block1.weight"
"""Behind PREFIX, a key of all of diffusers'."""
AUTHORS = ("body.0.block1.weight", "body.0.body.0.block1.weight")
"""Keys of the authors' full ones, and of the light."""
DEFAULTS: Mapping[str, Any] = {
    "in_channels": 3,
    "channels": (320, 640, 1280, 1280),
    "num_res_blocks": 2,
    "downscale_factor": 8,
    "adapter_type": "full_adapter",
}
"""Their configuration where a field is left out."""


def places(base: UNetConfig, count: int, what: str) -> tuple[int, ...]:
    """Where `count` features join this U-Net.

    One does at each level, after its last attention where it has any, else after the change of size; what is left at the bottom.
    """
    levels, n = len(base.mult), base.blocks
    at = [i * (n + 1) + n if i in base.attention or i == levels - 1 else (i + 1) * (n + 1) for i in range(levels)]
    if count > levels + 1:
        raise UserError(f"{what}: this adapter has {count} features, and the U-Net that it is opened for {levels} levels")
    return tuple([*at, levels * (n + 1)][:count])


def config(theirs: Mapping[str, Any], base: UNetConfig, factor: int, what: str = "config.json") -> T2IConfig:
    """Our shape of what a configuration of T2IAdapter describes; UserError where we have no such net."""
    known(theirs, DEFAULTS.keys(), {}, what, "a T2I-adapter")
    c = {**DEFAULTS, **theirs}
    if c["adapter_type"] not in KINDS:
        raise UserError(f"{what}: adapter_type is {c['adapter_type']!r}; known: {', '.join(KINDS)}")
    kind: Any = KINDS[c["adapter_type"]]
    channels = tuple(c["channels"])
    return T2IConfig(
        kind=kind,
        hint_channels=c["in_channels"],
        channels=channels,
        blocks=c["num_res_blocks"],
        shrink=c["downscale_factor"],
        places=places(base, len(channels) + (kind == "light"), what),
        factor=factor,
    )


def of_file(shapes: Mapping[str, tuple[int, ...]], base: UNetConfig, factor: int, what: str) -> T2IConfig:
    """The shape of an adapter of this U-Net in a file that says none, by diffusers' names or the authors'."""
    theirs = PREFIX + LEVEL in shapes
    names = {k.removeprefix(PREFIX): v for k, v in shapes.items()}
    light = "conv_in.weight" not in names
    kind: Any = "light" if light else "full" if 0 in base.attention else "xl"
    shrink = factor * (2 if kind == "xl" else 1)
    inside = names["body.0.in_conv.weight" if light else "conv_in.weight"][1]
    flat = not theirs and not light  # the authors number the blocks of a full one through
    count = numbered(names, r"body\.(\d+)\.")
    blocks = _blocks(names, count) if flat else numbered(names, rf"body\.0\.{'resnets' if theirs else 'body'}\.(\d+)\.")
    if flat:
        channels = tuple(names[f"body.{i}.block2.weight"][0] for i in range(0, count, blocks))
    elif light:
        channels = tuple(names[f"body.{i}.out_conv.weight"][0] for i in range(count - 1))
    else:
        channels = tuple(names[f"body.{i}.resnets.0.block2.weight"][0] for i in range(count))
    at = places(base, len(channels) + light, what)
    shape: dict[str, Any] = {"kind": kind, "channels": channels, "blocks": blocks, "shrink": shrink, "places": at}
    return T2IConfig(hint_channels=inside // shrink**2, factor=factor, **shape)


def _blocks(names: Mapping[str, tuple[int, ...]], count: int) -> int:
    """Blocks a level: a level begins where a block changes the channels."""
    found = [i for i in range(1, count) if f"body.{i}.in_conv.weight" in names]
    return found[0] if found else count


def layout(c: T2IConfig) -> Callable[[str], str]:
    """diffusers' names."""
    inner = renamed(
        (
            (r"^stem\.", "conv_in."),
            (r"^levels\.", "body."),
            (r"\.enter\.", ".in_conv."),
            (r"\.leave\.", ".out_conv."),
            (r"\.blocks\.", ".resnets."),
            (r"\.conv([12])\.", r".block\1."),
        )
    )
    return lambda key: PREFIX + inner(key)


def authors(c: T2IConfig) -> Layout:
    """The authors' names."""
    theirs = layout(c)
    flat = renamed(
        [(rf"^body\.{i}\.resnets\.{j}\.", f"body.{i * c.blocks + j}.") for i in range(len(c.channels)) for j in range(c.blocks)]
        if c.kind != "light"
        else [(r"\.resnets\.", ".body.")]
    )
    enter = renamed([(rf"^body\.{i}\.in_conv\.", f"body.{i * c.blocks}.in_conv.") for i in reversed(range(len(c.channels)))])

    def name(key: str) -> str:
        key = theirs(key).removeprefix(PREFIX)
        return enter(key) if ".in_conv." in key and c.kind != "light" else flat(key)

    return name


def said(c: T2IConfig) -> dict[str, Any]:
    """The configuration of T2IAdapter that describes our shape."""
    return {
        "in_channels": c.hint_channels,
        "channels": list(c.channels),
        "num_res_blocks": c.blocks,
        "downscale_factor": c.shrink,
        "adapter_type": next(k for k, v in KINDS.items() if v == c.kind),
    }


def kind(base: UNetConfig, factor: int) -> Kind:
    """How folders hold the adapters of a base."""
    return Kind(
        name="T2IAdapter",
        build=T2IAdapter,
        config=lambda theirs, what: config(theirs, base, factor, what),
        said=said,
        layout=layout,
    )
