"""The U-Net of Stable Diffusion 1, 2 and XL, as diffusers' folders have it: configuration and names of the weights."""

from collections.abc import Mapping, Sequence
from typing import Any

from reverie.errors import UserError
from reverie.nets.unet import UNet, UNetConfig
from reverie.systems.building import known
from reverie.systems.folders import Kind
from reverie.systems.names import renamed

TIMES = 256
"""Entries of the sinusoids of each number that XL is told: sizes and crops."""

layout = renamed(
    (
        (r"^stem\.", "conv_in."),
        (r"^norm\.", "conv_norm_out."),
        (r"^head\.", "conv_out."),
        (r"^time\.mlp\.0\.", "time_embedding.linear_1."),
        (r"^time\.mlp\.2\.", "time_embedding.linear_2."),
        (r"^vector\.0\.", "add_embedding.linear_1."),
        (r"^vector\.2\.", "add_embedding.linear_2."),
        (r"^(down|up)\.(\d+)\.resample\.", r"\1_blocks.\2.\1samplers.0."),
        (r"^(down|up)\.(\d+)\.res\.", r"\1_blocks.\2.resnets."),
        (r"^(down|up)\.(\d+)\.attention\.", r"\1_blocks.\2.attentions."),
        (r"^middle\.res\.", "mid_block.resnets."),
        (r"^bottom\.", "mid_block.attentions.0."),
        (r"\.emb\.", ".time_emb_proj."),
        (r"\.skip\.", ".conv_shortcut."),
        (r"\.enter\.", ".proj_in."),
        (r"\.leave\.", ".proj_out."),
        (r"\.blocks\.", ".transformer_blocks."),
        (r"\.self_attention\.", ".attn1."),
        (r"\.cross_attention\.", ".attn2."),
        (r"\.(attn[12])\.([qkv])\.", r".\1.to_\2."),
        (r"\.(attn[12])\.out\.", r".\1.to_out.0."),
        (r"\.feed_forward\.up\.", ".ff.net.0.proj."),
        (r"\.feed_forward\.down\.", ".ff.net.2."),
    )
)

READ = {
    *(
        "in_channels",
        "out_channels",
        "block_out_channels",
        "layers_per_block",
        "down_block_types",
        "up_block_types",
        "norm_num_groups",
    ),
    *("norm_eps", "cross_attention_dim", "transformer_layers_per_block", "attention_head_dim", "use_linear_projection", "dropout"),
    *("projection_class_embeddings_input_dim", "sample_size", "addition_time_embed_dim", "upcast_attention", "num_attention_heads"),
}
"""What of their configuration is looked at, or changes nothing in the function of the net."""
FIXED: Mapping[str, tuple[Any, ...]] = {
    "act_fn": ("silu",),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "downsample_padding": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "mid_block_scale_factor": (1,),
    "addition_embed_type": (None, "text_time"),
    "resnet_time_scale_shift": ("default",),
    "time_embedding_type": ("positional",),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "resnet_out_scale_factor": (1.0,),
    "addition_embed_type_num_heads": (64,),
    "attention_type": ("default",),
}
"""What the rest may say; where it is not listed, nothing, or false."""


def config(theirs: Mapping[str, Any], what: str = "unet/config.json") -> UNetConfig:
    """Our shape of the net that a configuration of UNet2DConditionModel describes; UserError where we have no such net."""
    known(theirs, READ, FIXED, what, "no net of Stable Diffusion 1, 2 or XL")
    width = list(theirs["block_out_channels"])
    levels = [i for i, kind in enumerate(theirs["down_block_types"]) if kind == "CrossAttnDownBlock2D"]
    depth = _each(theirs.get("transformer_layers_per_block", 1), len(width))
    # the field is named after the width of a head and holds their number; `num_attention_heads` is what it should be called
    heads = _each(theirs.get("num_attention_heads") or theirs.get("attention_head_dim", 8), len(width))
    head_width = {w // n for w, n in zip(width, heads, strict=True)}
    if len(set(heads)) > 1 and len(head_width) > 1:
        raise UserError(
            f"{what}: attention_head_dim is {heads}; ours has one number of heads, or one width of a head, at all levels"
        )
    return UNetConfig(
        in_channels=theirs["in_channels"],
        out_channels=theirs["out_channels"],
        channels=width[0],
        mult=tuple(w // width[0] for w in width),
        blocks=theirs.get("layers_per_block", 2),
        attention=tuple(levels),
        heads=heads[0],
        head_width=None if len(set(heads)) == 1 else head_width.pop(),
        depth=depth[0] if len(set(depth)) == 1 else tuple(depth),
        context_dim=theirs["cross_attention_dim"],
        vector_dim=theirs.get("projection_class_embeddings_input_dim"),
        groups=theirs.get("norm_num_groups", 32),
        eps=theirs.get("norm_eps", 1e-5),
    )


def _each(value: int | Sequence[int], levels: int) -> list[int]:
    return list(value) if isinstance(value, Sequence) else [value] * levels


def said(c: UNetConfig) -> dict[str, Any]:
    """The configuration of UNet2DConditionModel that describes our shape."""
    if c.context_dim is None or c.patch > 1 or c.sine_first or c.time_shift or c.scale_shift or not c.middle:
        raise UserError(
            "diffusers' UNet2DConditionModel has no such U-Net (tokens are needed, and no stem of patches): not written"
        )
    width = [c.channels * m for m in c.mult]
    heads = [c.heads if c.head_width is None else w // c.head_width for w in width]
    deep = {"CrossAttnDownBlock2D": "DownBlock2D", "CrossAttnUpBlock2D": "UpBlock2D"}
    down, up = ([cross if i in c.attention else plain for i in range(len(width))] for cross, plain in deep.items())
    pooled = {} if c.vector_dim is None else {"addition_embed_type": "text_time", "addition_time_embed_dim": TIMES}
    return {
        "in_channels": c.in_channels,
        "out_channels": c.out_channels,
        "block_out_channels": width,
        "layers_per_block": c.blocks,
        "down_block_types": down,
        "up_block_types": up[::-1],
        "attention_head_dim": heads,
        "transformer_layers_per_block": _each(c.depth, len(width)),
        "cross_attention_dim": c.context_dim,
        "use_linear_projection": True,
        "norm_num_groups": c.groups,
        "norm_eps": c.eps,
        "dropout": c.dropout,
        "projection_class_embeddings_input_dim": c.vector_dim,
        **pooled,
    }


KIND = Kind(name="UNet2DConditionModel", build=UNet, config=config, said=said, layout=lambda c: layout)
