"""The U-Net of pixels and latents without tokens, as diffusers' UNet2DModel has it: configuration and names of the weights."""

from collections.abc import Mapping
from typing import Any

from reverie.errors import UserError
from reverie.nets.unet import UNet, UNetConfig
from reverie.systems.building import known
from reverie.systems.folders import Kind
from reverie.systems.names import renamed
from reverie.systems.stable_diffusion import unet

_rest = renamed(
    (
        (r"(\.attentions\.\d+)\.norm\.", r"\1.group_norm."),
        (r"\.attention\.([qkv])\.", r".to_\1."),
        (r"\.attention\.out\.", ".to_out.0."),
    )
)


def layout(key: str) -> str:
    """Their name of our weight: the names of Stable Diffusion's U-Net, but for the attention."""
    return _rest(unet.layout(key))


ATTENDS = {"DownBlock2D": False, "ResnetDownsampleBlock2D": False, "AttnDownBlock2D": True}
UP = {"DownBlock2D": "UpBlock2D", "ResnetDownsampleBlock2D": "ResnetUpsampleBlock2D", "AttnDownBlock2D": "AttnUpBlock2D"}
"""The blocks that a level may have, whether they attend, and what mirrors them on the way up."""
READ = {
    *("in_channels", "out_channels", "block_out_channels", "layers_per_block", "norm_num_groups", "norm_eps", "dropout"),
    *("down_block_types", "up_block_types", "attention_head_dim", "add_attention", "sample_size", "downsample_padding"),
    *("flip_sin_to_cos", "freq_shift", "resnet_time_scale_shift", "downsample_type", "upsample_type", "attn_norm_num_groups"),
    "num_train_timesteps",
}
"""What of their configuration is looked at, or changes nothing in the function of the net."""
FIXED: Mapping[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
}
"""What the rest may say; where it is not listed, nothing, or false."""


def config(theirs: Mapping[str, Any], what: str = "unet/config.json") -> UNetConfig:
    """Our shape of the net that a configuration of UNet2DModel describes; UserError where we have no such net."""
    known(theirs, READ, FIXED, what, "no net of DDPM's kind")
    width, down = list(theirs["block_out_channels"]), list(theirs["down_block_types"])
    _check_blocks(theirs, down, what)
    scaled, groups = theirs.get("resnet_time_scale_shift", "default") == "scale_shift", theirs.get("norm_num_groups", 32)
    if theirs.get("attn_norm_num_groups", None if scaled else groups) not in ((groups,) if scaled else (None, groups)):
        raise UserError(f"{what}: attn_norm_num_groups must be {groups}, as of the other norms; ours has one number of groups")
    head = theirs.get("attention_head_dim", 8)
    return UNetConfig(
        in_channels=theirs.get("in_channels", 3),
        out_channels=theirs.get("out_channels", 3),
        channels=width[0],
        mult=tuple(w / width[0] if w % width[0] else w // width[0] for w in width),
        blocks=theirs.get("layers_per_block", 2),
        attention=tuple(i for i, kind in enumerate(down) if ATTENDS[kind]),
        middle=theirs.get("add_attention", True),
        heads=1,
        head_width=head,
        dropout=theirs.get("dropout", 0.0),
        groups=groups,
        eps=theirs.get("norm_eps", 1e-5),
        scale_shift=scaled,
        biggan=theirs.get("downsample_type", "conv") == "resnet",
        asymmetric=theirs.get("downsample_padding", 1) == 0,
        sine_first=not theirs.get("flip_sin_to_cos", True),
        time_shift=theirs.get("freq_shift", 0),
    )


def _check_blocks(theirs: Mapping[str, Any], down: list[str], what: str) -> None:
    """UserError unless the way up mirrors the way down, and one kind of change of size is used everywhere."""
    if unknown := set(down) - ATTENDS.keys():
        raise UserError(f"{what}: down_block_types has {unknown.pop()!r}, which ours has not; known are {', '.join(ATTENDS)}")
    up, resnet = list(theirs["up_block_types"]), theirs.get("downsample_type", "conv") == "resnet"
    if up != [UP[kind] for kind in reversed(down)]:
        raise UserError(f"{what}: up_block_types is {up}; ours mirrors the way down, whose blocks are {down}")
    other = "DownBlock2D" if resnet else "ResnetDownsampleBlock2D"
    if other in down[:-1] or (theirs.get("upsample_type", "conv") == "resnet") != resnet:
        raise UserError(f"{what}: some sizes are changed by convolutions and some by residual blocks; ours has one of the two")


def said(c: UNetConfig) -> dict[str, Any]:
    """The configuration of UNet2DModel that describes our shape."""
    if c.context_dim is not None or c.patch > 1 or c.vector_dim is not None or c.mult[0] != 1:
        raise UserError("diffusers' UNet2DModel has no tokens, vectors or stem of patches, and begins at full width: not written")
    heads = {w // c.heads_of(w) for w in [*(c.widths[i] for i in c.attention), *([c.widths[-1]] if c.middle else [])]}
    if len(heads) > 1 and c.heads > 1:
        raise UserError(f"diffusers' UNet2DModel has one width of a head, and not {c.heads} heads at all levels: not written")
    plain, change = ("ResnetDownsampleBlock2D", "resnet") if c.biggan else ("DownBlock2D", "conv")
    down = ["AttnDownBlock2D" if i in c.attention else plain for i in range(len(c.mult))]
    return {
        "in_channels": c.in_channels,
        "out_channels": c.out_channels,
        "block_out_channels": c.widths,
        "layers_per_block": c.blocks,
        "down_block_types": down,
        "up_block_types": [UP[kind] for kind in reversed(down)],
        "attention_head_dim": heads.pop() if len(heads) == 1 else None,
        "add_attention": c.middle,
        "norm_num_groups": c.groups,
        "attn_norm_num_groups": c.groups,
        "norm_eps": c.eps,
        "dropout": c.dropout,
        "resnet_time_scale_shift": "scale_shift" if c.scale_shift else "default",
        "downsample_type": change,
        "upsample_type": change,
        "downsample_padding": 0 if c.asymmetric else 1,
        "flip_sin_to_cos": not c.sine_first,
        "freq_shift": c.time_shift,
    }


KIND = Kind(name="UNet2DModel", build=UNet, config=config, said=said, layout=lambda c: layout)
