"""The net of PixArt-alpha as diffusers' folders have it: configuration and names of the weights.

Its net without sizes serves PixArt-Sigma too, whose positions alone differ.
"""

from collections.abc import Mapping
from typing import Any

from reverie.errors import UserError
from reverie.nets.pixart import PixArt, PixArtConfig
from reverie.systems.building import known
from reverie.systems.folders import Kind
from reverie.systems.names import renamed

layout = renamed(
    (
        (r"^adapt\.shared\.", "adaln_single.linear."),
        (r"^adapt\.time\.mlp\.0\.", "adaln_single.emb.timestep_embedder.linear_1."),
        (r"^adapt\.time\.mlp\.2\.", "adaln_single.emb.timestep_embedder.linear_2."),
        (r"^captions\.0\.", "caption_projection.linear_1."),
        (r"^captions\.2\.", "caption_projection.linear_2."),
        (r"^head\.table$", "scale_shift_table"),
        (r"^head\.linear\.", "proj_out."),
        (r"^blocks\.", "transformer_blocks."),
        (r"\.table$", ".scale_shift_table"),
        (r"\.attention\.", ".attn1."),
        (r"\.cross\.", ".attn2."),
        (r"\.(attn[12])\.([qkv])\.", r".\1.to_\2."),
        (r"\.(attn[12])\.out\.", r".\1.to_out.0."),
        (r"^sizes\.sides\.mlp\.0\.", "adaln_single.emb.resolution_embedder.linear_1."),
        (r"^sizes\.sides\.mlp\.2\.", "adaln_single.emb.resolution_embedder.linear_2."),
        (r"^sizes\.aspect\.mlp\.0\.", "adaln_single.emb.aspect_ratio_embedder.linear_1."),
        (r"^sizes\.aspect\.mlp\.2\.", "adaln_single.emb.aspect_ratio_embedder.linear_2."),
        (r"^stem\.", "pos_embed.proj."),
        (r"\.up\.", ".ff.net.0.proj."),
        (r"\.down\.", ".ff.net.2."),
    )
)

READ = {
    *("num_attention_heads", "attention_head_dim", "in_channels", "out_channels", "num_layers", "sample_size", "patch_size"),
    *("cross_attention_dim", "caption_channels", "interpolation_scale", "use_additional_conditions"),
    *("num_embeds_ada_norm", "dropout", "norm_num_groups", "upcast_attention"),
}
"""What of their configuration is looked at, or changes nothing in the function of the net."""
FIXED: Mapping[str, tuple[Any, ...]] = {
    "activation_fn": ("gelu-approximate",),
    "attention_bias": (True,),
    "attention_type": ("default",),
    "norm_type": ("ada_norm_single",),
    "norm_elementwise_affine": (False,),
    "norm_eps": (1e-6,),
}
"""What the rest must say; where it is not listed, nothing, or false."""


def config(theirs: Mapping[str, Any], what: str = "transformer/config.json") -> PixArtConfig:
    """Our shape of the net that a configuration of PixArtTransformer2DModel describes; UserError where we have no such net."""
    known(theirs, READ, FIXED, what, "no net of PixArt")
    channels, heads, size, patch = (theirs[k] for k in ("in_channels", "num_attention_heads", "sample_size", "patch_size"))
    width, out = heads * theirs["attention_head_dim"], theirs.get("out_channels") or channels
    if out not in (channels, 2 * channels):
        raise UserError(f"{what}: out_channels is {out}; ours gives {channels} channels back, or twice as many")
    if theirs.get("caption_channels") is None or theirs.get("cross_attention_dim") != width:
        raise UserError(f"{what}: ours reads captions through two layers to its own width of {width}; caption_channels must be set")
    sizes = theirs.get("use_additional_conditions")
    return PixArtConfig(
        in_channels=channels,
        span=(size // patch) / (theirs.get("interpolation_scale") or max(size // 64, 1)),
        patch=patch,
        width=width,
        depth=theirs["num_layers"],
        heads=heads,
        learn_sigma=out == 2 * channels,
        context_dim=theirs["caption_channels"],
        sizes=size == 128 if sizes is None else sizes,
    )


def said(c: PixArtConfig) -> dict[str, Any]:
    """The configuration of PixArtTransformer2DModel that describes our shape."""
    size = 128 if c.sizes else round(c.span) * c.patch
    return {
        "num_attention_heads": c.heads,
        "attention_head_dim": c.width // c.heads,
        "in_channels": c.in_channels,
        "out_channels": c.out_channels,
        "num_layers": c.depth,
        "sample_size": size,
        "patch_size": c.patch,
        "cross_attention_dim": c.width,
        "caption_channels": c.context_dim,
        "interpolation_scale": (size // c.patch) / c.span,
        "use_additional_conditions": c.sizes,
    }


KIND = Kind(name="PixArtTransformer2DModel", build=PixArt, config=config, said=said, layout=lambda c: layout)
