"""The net of Flux.1 dev and schnell, as diffusers' folders and the publisher's single files have it."""

from collections.abc import Mapping
from typing import Any

from reverie.errors import UserError
from reverie.nets.mmdit import MMDiT, MMDiTConfig
from reverie.systems.building import known
from reverie.systems.folders import Kind
from reverie.systems.names import renamed
from reverie.systems.sd3.transformer import DIFFUSERS

layout = renamed(
    (
        (r"^stem\.", "x_embedder."),
        (r"^guidance\.mlp\.0\.", "time_text_embed.guidance_embedder.linear_1."),
        (r"^guidance\.mlp\.2\.", "time_text_embed.guidance_embedder.linear_2."),
        (r"^single\.(\d+)\.adapt\.", r"single_transformer_blocks.\1.norm.linear."),
        (r"^single\.(\d+)\.heads\.([qkv])\.", r"single_transformer_blocks.\1.attn.to_\2."),
        (r"^single\.(\d+)\.heads\.", r"single_transformer_blocks.\1.attn."),
        (r"^single\.(\d+)\.up\.", r"single_transformer_blocks.\1.proj_mlp."),
        (r"^single\.(\d+)\.out\.", r"single_transformer_blocks.\1.proj_out."),
        *DIFFUSERS,
    )
)
"""diffusers' names."""

PREFIX = "model.diffusion_model."
"""What may stand before each of the names of `original`: in files that hold other parts too."""

original = renamed(
    (
        (r"^stem\.", "img_in."),
        (r"^context\.", "txt_in."),
        (r"^(time|guidance)\.mlp\.0\.", r"\1_in.in_layer."),
        (r"^(time|guidance)\.mlp\.2\.", r"\1_in.out_layer."),
        (r"^vector\.0\.", "vector_in.in_layer."),
        (r"^vector\.2\.", "vector_in.out_layer."),
        (r"^joint\.(\d+)\.image\.", r"double_blocks.\1.img_"),
        (r"^joint\.(\d+)\.text\.", r"double_blocks.\1.txt_"),
        (r"_adapt\.", "_mod.lin."),
        (r"_heads\.q\.(\w+)$", r"_attn.qkv.\1[0]"),
        (r"_heads\.k\.(\w+)$", r"_attn.qkv.\1[1]"),
        (r"_heads\.v\.(\w+)$", r"_attn.qkv.\1[2]"),
        (r"_heads\.norm_", "_attn.norm_"),
        (r"_heads\.out\.", "_attn.proj."),
        (r"_up\.", "_mlp.0."),
        (r"_down\.", "_mlp.2."),
        (r"^single\.(\d+)\.", r"single_blocks.\1."),
        (r"\.adapt\.", ".modulation.lin."),
        (r"\.heads\.q\.(\w+)$", r".linear1.\1[0]"),
        (r"\.heads\.k\.(\w+)$", r".linear1.\1[1]"),
        (r"\.heads\.v\.(\w+)$", r".linear1.\1[2]"),
        (r"\.up\.(\w+)$", r".linear1.\1[3]"),
        (r"\.out\.", ".linear2."),
        (r"\.heads\.norm_", ".norm_"),
        (r"\.norm_q\.weight$", ".norm.query_norm.scale"),
        (r"\.norm_k\.weight$", ".norm.key_norm.scale"),
        (r"^norm\.shift\.(\w+)$", r"final_layer.adaLN_modulation.1.\1[0]"),
        (r"^norm\.scale\.(\w+)$", r"final_layer.adaLN_modulation.1.\1[1]"),
        (r"^head\.", "final_layer.linear."),
    )
)
"""The publisher's names, as in the single files."""

DEFAULTS: Mapping[str, Any] = {
    "patch_size": 1,
    "in_channels": 64,
    "out_channels": None,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": False,
    "axes_dims_rope": (16, 56, 56),
}
"""Their configuration where a field is left out."""
SIDE = 2
"""Pixels of a patch, each way: they pack the latent before the net, and their patch_size of 1 is of the packed one."""


def config(theirs: Mapping[str, Any], what: str = "transformer/config.json") -> MMDiTConfig:
    """Our shape of the net that a configuration of FluxTransformer2DModel describes; UserError where we have no such net."""
    c = {**DEFAULTS, **theirs}
    fixed = {"patch_size": (1,), "out_channels": (None, c["in_channels"])}
    known(c, DEFAULTS.keys() - fixed, fixed, what, "no net of Flux.1 dev and schnell")
    if c["in_channels"] % SIDE**2:
        raise UserError(f"{what}: in_channels is {c['in_channels']}; it counts the entries of a patch of {SIDE} x {SIDE} pixels")
    return MMDiTConfig(
        in_channels=c["in_channels"] // SIDE**2,
        patch=SIDE,
        width=c["num_attention_heads"] * c["attention_head_dim"],
        heads=c["num_attention_heads"],
        depth=c["num_layers"],
        single=c["num_single_layers"],
        context_dim=c["joint_attention_dim"],
        vector_dim=c["pooled_projection_dim"],
        axes=tuple(c["axes_dims_rope"]),
        packed=True,
        guided=c["guidance_embeds"],
    )


def said(c: MMDiTConfig) -> dict[str, Any]:
    """The configuration of FluxTransformer2DModel that describes our shape."""
    if c.axes is None or not c.packed or c.patch != SIDE or c.dual or c.vector_dim is None or not c.qk_norm or c.gelu != "tanh":
        raise UserError("diffusers' FluxTransformer2DModel has no such transformer: it cannot be written")
    return {
        "patch_size": 1,
        "in_channels": c.in_channels * SIDE**2,
        "out_channels": None,
        "num_layers": c.depth,
        "num_single_layers": c.single,
        "attention_head_dim": c.width // c.heads,
        "num_attention_heads": c.heads,
        "joint_attention_dim": c.context_dim,
        "pooled_projection_dim": c.vector_dim,
        "guidance_embeds": c.guided,
        "axes_dims_rope": list(c.axes),
    }


KIND = Kind(name="FluxTransformer2DModel", build=MMDiT, config=config, said=said, layout=lambda c: layout)
