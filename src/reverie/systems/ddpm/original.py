"""The names that the weights of DDPM have in ports of its first code to PyTorch (that of DDIM, arXiv:2010.02502, and others)."""

from collections.abc import Mapping
from dataclasses import replace

from reverie.nets.unet import UNetConfig
from reverie.nets.unets import DDPM_CIFAR10
from reverie.systems.building import numbered
from reverie.systems.names import Layout, renamed


def layout(c: UNetConfig) -> Layout:
    """The names for a net of this shape: the levels of both ways are counted from the largest picture."""
    ways = [(rf"^up\.{k}\.", f"up.{len(c.mult) - 1 - k}.") for k in range(len(c.mult))]
    return renamed(
        (
            *[(pattern, f"@{name}") for pattern, name in ways],  # marked, so that none is renamed twice
            (r"^@", ""),
            (r"^stem\.", "conv_in."),
            (r"^norm\.", "norm_out."),
            (r"^head\.", "conv_out."),
            (r"^time\.mlp\.0\.", "temb.dense.0."),
            (r"^time\.mlp\.2\.", "temb.dense.1."),
            (r"^middle\.res\.0\.", "mid.block_1."),
            (r"^middle\.res\.1\.", "mid.block_2."),
            (r"^bottom\.", "mid.attn_1."),
            (r"\.res\.", ".block."),
            (r"\.attention\.(\d+)\.", r".attn.\1."),
            (r"^(down|up)\.(\d+)\.resample\.", r"\1.\2.\1sample."),
            (r"\.emb\.", ".temb_proj."),
            (r"\.skip\.", ".nin_shortcut."),
            (r"\.attention\.([qkv])\.", r".\1."),
            (r"\.attention\.out\.", ".proj_out."),
        )
    )


def config(shapes: Mapping[str, tuple[int, ...]]) -> UNetConfig:
    """The shape of the net that has these tensors; KeyError where they are of no such net."""
    channels, in_channels = shapes["conv_in.weight"][:2]
    levels, blocks = numbered(shapes, r"down\.(\d+)\."), numbered(shapes, r"down\.0\.block\.(\d+)\.")
    widths = [shapes[f"down.{i}.block.0.conv1.weight"][0] for i in range(levels)]
    return replace(
        DDPM_CIFAR10,
        in_channels=in_channels,
        out_channels=shapes["conv_out.weight"][0],
        channels=channels,
        mult=tuple(w / channels if w % channels else w // channels for w in widths),
        blocks=blocks,
        attention=tuple(i for i in range(levels) if f"down.{i}.attn.0.q.weight" in shapes),
    )
