"""The net of Stable Diffusion 3 and 3.5, as diffusers' folders and the publisher's single files have it."""

from collections.abc import Mapping
from typing import Any

from reverie.errors import UserError
from reverie.nets.mmdit import MMDiT, MMDiTConfig
from reverie.systems.building import known
from reverie.systems.folders import Kind
from reverie.systems.names import renamed

DIFFUSERS = (
    (r"^time\.mlp\.0\.", "time_text_embed.timestep_embedder.linear_1."),
    (r"^time\.mlp\.2\.", "time_text_embed.timestep_embedder.linear_2."),
    (r"^vector\.0\.", "time_text_embed.text_embedder.linear_1."),
    (r"^vector\.2\.", "time_text_embed.text_embedder.linear_2."),
    (r"^context\.", "context_embedder."),
    (r"^joint\.(\d+)\.", r"transformer_blocks.\1."),
    (r"\.image\.adapt\.", ".norm1.linear."),
    (r"\.text\.adapt\.(weight|bias)$", r".norm1_context.linear.\1"),
    (r"\.text\.adapt\.scale\.(\w+)$", r".norm1_context.linear.\1[0]"),
    (r"\.text\.adapt\.shift\.(\w+)$", r".norm1_context.linear.\1[1]"),
    (r"\.image\.heads\.([qkv])\.", r".attn.to_\1."),
    (r"\.image\.heads\.norm_", ".attn.norm_"),
    (r"\.image\.heads\.out\.", ".attn.to_out.0."),
    (r"\.text\.heads\.([qkv])\.", r".attn.add_\1_proj."),
    (r"\.text\.heads\.norm_", ".attn.norm_added_"),
    (r"\.text\.heads\.out\.", ".attn.to_add_out."),
    (r"\.image\.dual\.([qkv])\.", r".attn2.to_\1."),
    (r"\.image\.dual\.norm_", ".attn2.norm_"),
    (r"\.image\.dual\.out\.", ".attn2.to_out.0."),
    (r"\.image\.up\.", ".ff.net.0.proj."),
    (r"\.image\.down\.", ".ff.net.2."),
    (r"\.text\.up\.", ".ff_context.net.0.proj."),
    (r"\.text\.down\.", ".ff_context.net.2."),
    (r"^norm\.scale\.(\w+)$", r"norm_out.linear.\1[0]"),
    (r"^norm\.shift\.(\w+)$", r"norm_out.linear.\1[1]"),
    (r"^head\.", "proj_out."),
)
"""What Stable Diffusion 3 and Flux share in diffusers."""

layout = renamed(((r"^stem\.", "pos_embed.proj."), (r"^positions$", "pos_embed.pos_embed"), *DIFFUSERS))
"""diffusers' names."""

PREFIX = "model.diffusion_model."
"""What stands before each of the names of `original` where the net shares its file with other parts."""

original = renamed(
    (
        (r"^stem\.", "x_embedder.proj."),
        (r"^positions$", "pos_embed"),
        (r"^time\.", "t_embedder."),
        (r"^vector\.", "y_embedder.mlp."),
        (r"^context\.", "context_embedder."),
        (r"^joint\.(\d+)\.image\.", r"joint_blocks.\1.x_block."),
        (r"^joint\.(\d+)\.text\.", r"joint_blocks.\1.context_block."),
        (r"\.adapt\.(weight|bias)$", r".adaLN_modulation.1.\1"),
        (r"\.adapt\.shift\.(\w+)$", r".adaLN_modulation.1.\1[0]"),
        (r"\.adapt\.scale\.(\w+)$", r".adaLN_modulation.1.\1[1]"),
        (r"\.heads\.", ".attn."),
        (r"\.dual\.", ".attn2."),
        (r"\.q\.(\w+)$", r".qkv.\1[0]"),
        (r"\.k\.(\w+)$", r".qkv.\1[1]"),
        (r"\.v\.(\w+)$", r".qkv.\1[2]"),
        (r"\.norm_([qk])\.", r".ln_\1."),
        (r"\.out\.", ".proj."),
        (r"\.up\.", ".mlp.fc1."),
        (r"\.down\.", ".mlp.fc2."),
        (r"^norm\.shift\.(\w+)$", r"final_layer.adaLN_modulation.1.\1[0]"),
        (r"^norm\.scale\.(\w+)$", r"final_layer.adaLN_modulation.1.\1[1]"),
        (r"^head\.", "final_layer.linear."),
    )
)
"""The publisher's names, as in the single files; there behind PREFIX."""

DEFAULTS: Mapping[str, Any] = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 18,
    "num_attention_heads": 18,
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1152,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 96,
    "dual_attention_layers": (),
    "qk_norm": None,
}
"""Their configuration where a field is left out."""


def config(theirs: Mapping[str, Any], what: str = "transformer/config.json") -> MMDiTConfig:
    """Our shape of the net that a configuration of SD3Transformer2DModel describes; UserError where we have no such net."""
    known(theirs, DEFAULTS, {}, what, "no net of Stable Diffusion 3 or 3.5")
    c = {**DEFAULTS, **theirs}
    width, dual = c["num_attention_heads"] * c["attention_head_dim"], tuple(c["dual_attention_layers"] or ())
    if dual != tuple(range(len(dual))):
        raise UserError(f"{what}: dual_attention_layers is {list(dual)}; ours has them one after the other from the first")
    same = {"out_channels": (None, c["in_channels"]), "caption_projection_dim": (width,), "qk_norm": (None, "rms_norm")}
    for field, right in same.items():
        if c[field] not in right:
            raise UserError(f"{what}: {field} is {c[field]!r}; with the rest of this configuration ours must have {right[-1]!r}")
    return MMDiTConfig(
        in_channels=c["in_channels"],
        patch=c["patch_size"],
        width=width,
        heads=c["num_attention_heads"],
        depth=c["num_layers"],
        dual=len(dual),
        context_dim=c["joint_attention_dim"],
        vector_dim=c["pooled_projection_dim"],
        qk_norm=c["qk_norm"] is not None,
        size=c["sample_size"] // c["patch_size"],
        table=c["pos_embed_max_size"],
    )


def said(c: MMDiTConfig) -> dict[str, Any]:
    """The configuration of SD3Transformer2DModel that describes our shape."""
    if c.axes is not None or c.single or c.packed or c.guided or c.vector_dim is None or c.gelu != "tanh":
        raise UserError("diffusers' SD3Transformer2DModel has no such transformer: it cannot be written")
    return {
        "sample_size": c.size * c.patch,
        "patch_size": c.patch,
        "in_channels": c.in_channels,
        "out_channels": c.in_channels,
        "num_layers": c.depth,
        "num_attention_heads": c.heads,
        "attention_head_dim": c.width // c.heads,
        "joint_attention_dim": c.context_dim,
        "caption_projection_dim": c.width,
        "pooled_projection_dim": c.vector_dim,
        "pos_embed_max_size": c.table,
        "dual_attention_layers": list(range(c.dual)),
        "qk_norm": "rms_norm" if c.qk_norm else None,
    }


KIND = Kind(name="SD3Transformer2DModel", build=MMDiT, config=config, said=said, layout=lambda c: layout)
