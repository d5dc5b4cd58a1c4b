"""The net of Sana and Sana 1.5 as diffusers' folders have it: configuration and names of the weights."""

from collections.abc import Mapping
from typing import Any

from reverie.errors import UserError
from reverie.nets.sana import Sana, SanaConfig
from reverie.systems.building import known
from reverie.systems.folders import Kind
from reverie.systems.names import renamed

layout = renamed(
    (
        (r"^adapt\.shared\.", "time_embed.linear."),
        (r"^adapt\.time\.mlp\.0\.", "time_embed.emb.timestep_embedder.linear_1."),
        (r"^adapt\.time\.mlp\.2\.", "time_embed.emb.timestep_embedder.linear_2."),
        (r"^captions\.0\.", "caption_projection.linear_1."),
        (r"^captions\.2\.", "caption_projection.linear_2."),
        (r"^stem\.", "patch_embed.proj."),
        (r"^head\.table$", "scale_shift_table"),
        (r"^head\.linear\.", "proj_out."),
        (r"^blocks\.", "transformer_blocks."),
        (r"\.table$", ".scale_shift_table"),
        (r"\.attention\.", ".attn1."),
        (r"\.cross\.", ".attn2."),
        (r"\.(attn[12])\.([qkv])\.", r".\1.to_\2."),
        (r"\.(attn[12])\.out\.", r".\1.to_out.0."),
        (r"\.feed_forward\.up\.", ".ff.conv_inverted."),
        (r"\.feed_forward\.mix\.", ".ff.conv_depth."),
        (r"\.feed_forward\.down\.", ".ff.conv_point."),
    )
)


def pointwise(name: str) -> bool:
    """Whether they store a weight of this name as a convolution of 1x1 where ours is a matrix."""
    return name.endswith(("conv_inverted.weight", "conv_point.weight"))


READ = {
    *("num_attention_heads", "attention_head_dim", "in_channels", "out_channels", "num_layers", "sample_size", "patch_size"),
    *("num_cross_attention_heads", "cross_attention_head_dim", "cross_attention_dim", "caption_channels", "mlp_ratio"),
    *("interpolation_scale", "qk_norm", "dropout", "guidance_embeds_scale"),
}
"""What of their configuration is looked at, or changes nothing in the function of the net."""
FIXED: Mapping[str, tuple[Any, ...]] = {"norm_eps": (1e-6,), "timestep_scale": (1.0,)}
"""What the rest must say; where it is not listed, nothing, or false."""


def config(theirs: Mapping[str, Any], what: str = "transformer/config.json") -> SanaConfig:
    """Our shape of the net that a configuration of SanaTransformer2DModel describes; UserError where we have no such net."""
    known(theirs, READ, FIXED, what, "no net of Sana or Sana 1.5")
    heads, cross, norm = theirs["num_attention_heads"], theirs["num_cross_attention_heads"], theirs.get("qk_norm")
    width, channels, scale = heads * theirs["attention_head_dim"], theirs["in_channels"], theirs.get("interpolation_scale")
    if width != cross * theirs["cross_attention_head_dim"] or width != theirs["cross_attention_dim"]:
        raise UserError(f"{what}: both attentions of ours have the width {width}; here that to the caption has another")
    if (theirs.get("out_channels") or channels) != channels:
        raise UserError(f"{what}: out_channels is {theirs['out_channels']}; ours gives the {channels} channels back that it takes")
    if norm not in (None, "rms_norm_across_heads"):
        raise UserError(f"{what}: qk_norm is {norm!r}; ours norms queries and keys over all heads (rms_norm_across_heads) or not")
    return SanaConfig(
        in_channels=channels,
        patch=theirs["patch_size"],
        width=width,
        depth=theirs["num_layers"],
        heads=heads,
        cross_heads=cross,
        mlp_ratio=theirs["mlp_ratio"],
        context_dim=theirs["caption_channels"],
        qk_norm=norm is not None,
        span=None if scale is None else theirs["sample_size"] // theirs["patch_size"] / scale,
    )


def said(c: SanaConfig) -> dict[str, Any]:
    """The configuration of SanaTransformer2DModel that describes our shape."""
    if c.span is not None:
        raise UserError(
            "the positions of Sana's nets for 2K and 4K are not written: diffusers derives them from the size in its file"
        )
    return {
        "in_channels": c.in_channels,
        "out_channels": c.in_channels,
        "patch_size": c.patch,
        "num_layers": c.depth,
        "num_attention_heads": c.heads,
        "attention_head_dim": c.width // c.heads,
        "num_cross_attention_heads": c.cross_heads,
        "cross_attention_head_dim": c.width // c.cross_heads,
        "cross_attention_dim": c.width,
        "caption_channels": c.context_dim,
        "mlp_ratio": c.mlp_ratio,
        "sample_size": 32,
        "interpolation_scale": None,
        "qk_norm": "rms_norm_across_heads" if c.qk_norm else None,
    }


KIND = Kind(name="SanaTransformer2DModel", build=Sana, config=config, said=said, layout=lambda c: layout, pointwise=pointwise)
