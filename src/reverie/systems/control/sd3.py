"""ControlNets of Stable Diffusion 3 and 3.5, as diffusers has them (InstantX's, and those of the publisher, which read no text)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reverie.errors import UserError
from reverie.nets.control_transformer import ControlTransformer, ControlTransformerConfig
from reverie.nets.mmdit import MMDiTConfig
from reverie.systems.building import known, numbered
from reverie.systems.folders import Kind
from reverie.systems.names import Layout, renamed
from reverie.systems.sd3 import transformer

MARK = "pos_embed_input.proj.weight"
SHARED = "pos_embed."
"""How the names begin of what some take from the net that they belong to."""
OWN = {
    "extra_conditioning_channels": 0,
    "pos_embed_type": "sincos",
    "use_pos_embed": True,
    "force_zeros_for_pooled_projection": True,
}
"""Of a configuration what is the control's own, where a field is left out."""


def config(theirs: Mapping[str, Any], base: MMDiTConfig, what: str = "config.json") -> ControlTransformerConfig:
    """Our shape of what a configuration of SD3ControlNetModel describes; UserError where we have no such net."""
    own = {k: theirs.get(k, default) for k, default in OWN.items()}
    fixed: dict[str, tuple[Any, ...]] = {"extra_conditioning_channels": (0,), "pos_embed_type": ("sincos", None)}
    known({k: own[k] for k in fixed}, (), fixed, what, "a control of Stable Diffusion 3")
    body = {k: v for k, v in theirs.items() if k not in OWN}
    plain = "joint_attention_dim" in body and body["joint_attention_dim"] is None
    width = body.get("num_attention_heads", 18) * body.get("attention_head_dim", 64)
    body |= {"joint_attention_dim": base.context_dim, "caption_projection_dim": width} if plain else {}
    shape = transformer.config(body, what)
    places = (shape.table, shape.size) if own["use_pos_embed"] else (base.table, base.size)
    blocks, dual = body.get("num_layers", 18), 0 if plain else shape.dual
    return _made(
        replace(
            shape, depth=max(base.depth, blocks), table=places[0], size=places[1], dual=dual, qk_norm=shape.qk_norm and not plain
        ),
        blocks,
        plain,
        bool(own["force_zeros_for_pooled_projection"]),
    )


def of_file(shapes: Mapping[str, tuple[int, ...]], base: MMDiTConfig) -> ControlTransformerConfig:
    """The shape of the control of a base in a file that says none; those that read no text are told the pooled vector."""
    blocks, plain = numbered(shapes, r"controlnet_blocks\.(\d+)\."), "context_embedder.weight" not in shapes
    names = [f"transformer_blocks.{i}.attn2.to_q.weight" for i in range(blocks)]
    shape = replace(base, dual=sum(n in shapes for n in names), qk_norm="transformer_blocks.0.attn.norm_q.weight" in shapes)
    if "pos_embed.pos_embed" in shapes:
        shape = replace(shape, table=round(shapes["pos_embed.pos_embed"][1] ** 0.5))
    return _made(shape, blocks, plain, not plain)


def _made(body: MMDiTConfig, blocks: int, plain: bool, unpooled: bool) -> ControlTransformerConfig:
    options: dict[str, Any] = {"hint_channels": 3, "spread": "even", "latent": True, "plain": plain, "unpooled": unpooled}
    return ControlTransformerConfig(body=body, blocks=blocks, **options)


def layout(c: ControlTransformerConfig) -> Layout:
    """diffusers' names."""
    own = renamed(((r"^hint\.", "pos_embed_input.proj."), (r"^zeros\.", "controlnet_blocks.")))
    return lambda key: transformer.layout(key.removeprefix("body.")) if key.startswith("body.") else own(key)


def said(c: ControlTransformerConfig) -> dict[str, Any]:
    """The configuration of SD3ControlNetModel that describes our shape."""
    if not c.latent or c.spread != "even" or not isinstance(c.body, MMDiTConfig):
        raise UserError("diffusers' SD3ControlNetModel hears encoded pictures: this control cannot be written as one")
    body = transformer.said(replace(c.body, depth=c.blocks, dual=min(c.body.dual, c.blocks)))
    return {
        **body,
        "joint_attention_dim": None if c.plain else c.body.context_dim,
        "force_zeros_for_pooled_projection": c.unpooled,
    }


def kind(base: MMDiTConfig) -> Kind:
    """How folders hold the controls of a base."""
    return Kind(
        name="SD3ControlNetModel",
        build=ControlTransformer,
        config=lambda theirs, what: config(theirs, base, what),
        said=said,
        layout=layout,
    )
