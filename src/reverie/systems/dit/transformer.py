"""The net and the classes of DiT and DiT-MoE, as the published files and as diffusers' folders have them.

In theirs the table of classes is part of the net, with us of the encoder; so layouts name the weights of both, as `parts` puts
them together: "net." and "classes.".

diffusers' DiT is not quite the published one: its clock's frequencies are shifted by one, and the norms before its MLPs have an
eps of their own. `config` follows diffusers, since that is what a folder of its kind was made for; `published` turns back.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from reverie.encode.classes import Classes
from reverie.errors import UserError
from reverie.nets.dit import DiT, DiTConfig, positions
from reverie.nets.moe import MoEConfig
from reverie.systems.building import building, known, numbered
from reverie.systems.names import Layout, renamed

original = renamed(
    (
        (r"^classes\.table\.", "y_embedder.embedding_table."),
        (r"^net\.", ""),
        (r"^stem\.", "x_embedder.proj."),
        (r"^time\.", "t_embedder."),
        (r"^positions$", "pos_embed"),
        (r"^adapt\.", "final_layer.adaLN_modulation.1."),
        (r"^head\.", "final_layer.linear."),
        (r"\.adapt\.", ".adaLN_modulation.1."),
        (r"\.attention\.q\.(\w+)$", r".attn.qkv.\1[0]"),
        (r"\.attention\.k\.(\w+)$", r".attn.qkv.\1[1]"),
        (r"\.attention\.v\.(\w+)$", r".attn.qkv.\1[2]"),
        (r"\.attention\.out\.", ".attn.proj."),
        (r"^(blocks\.\d+)\.up\.", r"\1.mlp.fc1."),
        (r"^(blocks\.\d+)\.down\.", r"\1.mlp.fc2."),
        (r"\.experts\.gate\.", ".moe.gate."),
        (r"\.experts\.routed\.(\d+)\.(gate|up|down)\.", r".moe.experts.\1.\2_proj."),
        (r"\.experts\.shared\.(gate|up|down)\.", r".moe.shared_experts.\1_proj."),
    )
)
"""The names of the files that the authors of DiT, SiT and DiT-MoE published."""

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16, 1408: 16}
"""Heads of the published nets by their width, which is all that a file of weights does not tell."""


def parts(net: DiT, classes: Classes) -> nn.ModuleDict:
    """What one file of theirs holds."""
    return nn.ModuleDict({"net": net, "classes": classes})


def original_config(tensors: Mapping[str, Tensor], what: str, heads: int | None = None) -> DiTConfig:
    """The shape of the net whose published weights these are; UserError where they are of no such net."""
    with building(what, len(tensors), "DiT"):
        width, channels, patch, _ = tensors["x_embedder.proj.weight"].shape
        rows = len(tensors["final_layer.linear.weight"]) // patch**2
        plain = DiTConfig(
            in_channels=channels,
            size=patch * round(tensors["pos_embed"].shape[1] ** 0.5),
            patch=patch,
            width=width,
            depth=numbered(tensors, r"blocks\.(\d+)\."),
            heads=heads or HEADS[width],
            learn_sigma=rows == 2 * channels,
        )
        if "blocks.0.moe.gate.weight" not in tensors:
            hidden = len(tensors["blocks.0.mlp.fc1.weight"])
            return replace(plain, mlp_ratio=hidden / width)
        hidden = len(tensors["blocks.0.moe.experts.0.up_proj.weight"])
        shared = tensors.get("blocks.0.moe.shared_experts.up_proj.weight")
        return MoEConfig(
            **{**vars(plain), "mlp_ratio": hidden / width},
            experts=len(tensors["blocks.0.moe.gate.weight"]),
            shared=0 if shared is None else len(shared) // width,
        )


def layout(depth: int) -> Layout:
    """diffusers' names for a net of this depth: each block there has a copy of the embedders of time and class."""
    inner = renamed(
        (
            (r"^net\.", ""),
            (r"^stem\.", "pos_embed.proj."),
            (r"^positions$", "pos_embed.pos_embed"),
            (r"^time\.mlp\.0\.", "norm1.emb.timestep_embedder.linear_1."),
            (r"^time\.mlp\.2\.", "norm1.emb.timestep_embedder.linear_2."),
            (r"^classes\.table\.", "norm1.emb.class_embedder.embedding_table."),
            (r"^adapt\.", "proj_out_1."),
            (r"^head\.", "proj_out_2."),
            (r"^blocks\.", "transformer_blocks."),
            (r"\.adapt\.", ".norm1.linear."),
            (r"\.attention\.([qkv])\.", r".attn1.to_\1."),
            (r"\.attention\.out\.", ".attn1.to_out.0."),
            (r"\.up\.", ".ff.net.0.proj."),
            (r"\.down\.", ".ff.net.2."),
        )
    )

    def theirs(key: str) -> str | tuple[str, ...]:
        name = inner(key)
        return tuple(f"transformer_blocks.{i}.{name}" for i in range(depth)) if name.startswith("norm1.") else name

    return theirs


def completed(tensors: Mapping[str, Tensor], c: DiTConfig) -> dict[str, Tensor]:
    """What diffusers stores, and the fixed positions, which it computes and we keep, where the net is of this width."""
    grid, stem = c.size // c.patch, tensors.get("pos_embed.proj.weight")
    if stem is None or len(stem) != c.width:
        return dict(tensors)
    return {"pos_embed.pos_embed": positions(grid, grid, c.width, size=grid), **tensors}


def stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The other way round: without the positions."""
    return {name: value for name, value in tensors.items() if name != "pos_embed.pos_embed"}


def published(c: DiTConfig) -> DiTConfig:
    """The same shape with the clock and norms of the authors, which diffusers' copies of their weights were trained with."""
    return replace(c, time_shift=0, eps=1e-6)


READ = {
    *("num_attention_heads", "attention_head_dim", "in_channels", "out_channels", "num_layers", "sample_size", "patch_size"),
    *("num_embeds_ada_norm", "norm_eps", "dropout", "norm_num_groups", "upcast_attention"),
}
"""What of their configuration is looked at, or changes nothing in the function of the net."""
FIXED: Mapping[str, tuple[Any, ...]] = {
    "activation_fn": ("gelu-approximate",),
    "attention_bias": (True,),
    "norm_type": ("ada_norm_zero",),
    "norm_elementwise_affine": (False,),
}
"""What the rest must say; where it is not listed, nothing, or false."""
LARGEST = 1024
"""Side of the latents beyond which a table of positions is taken for a mistake: the published ones have 64."""


def config(theirs: Mapping[str, Any], what: str = "transformer/config.json") -> DiTConfig:
    """Our shape of the net that a configuration of DiTTransformer2DModel describes; UserError where we have no such net."""
    known(theirs, READ, FIXED, what, "no net of DiT")
    channels, heads = theirs["in_channels"], theirs["num_attention_heads"]
    out = theirs.get("out_channels") or channels
    if theirs["sample_size"] > LARGEST:
        raise UserError(f"{what}: sample_size is {theirs['sample_size']}; no net of DiT draws latents of more than {LARGEST}")
    if out not in (channels, 2 * channels):
        raise UserError(f"{what}: out_channels is {out}; ours gives {channels} channels back, or twice as many")
    return DiTConfig(
        in_channels=channels,
        size=theirs["sample_size"],
        patch=theirs["patch_size"],
        width=heads * theirs["attention_head_dim"],
        depth=theirs["num_layers"],
        heads=heads,
        learn_sigma=out == 2 * channels,
        time_shift=1,
        eps=theirs.get("norm_eps", 1e-5),
    )


def said(c: DiTConfig, classes: int) -> dict[str, Any]:
    """The configuration of DiTTransformer2DModel that describes our shape."""
    if c.context_dim is not None or c.vector_dim is not None or c.mlp_ratio != 4 or c.gelu != "tanh" or c.time_shift != 1:
        raise UserError(
            "diffusers' DiTTransformer2DModel has no such transformer (its clock and norms are not the published ones): it cannot "
            "be written"
        )
    return {
        "num_attention_heads": c.heads,
        "attention_head_dim": c.width // c.heads,
        "in_channels": c.in_channels,
        "out_channels": c.out_channels,
        "num_layers": c.depth,
        "sample_size": c.size,
        "patch_size": c.patch,
        "num_embeds_ada_norm": classes,
        "norm_eps": c.eps,
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
    }
