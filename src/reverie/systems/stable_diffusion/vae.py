"""The KL autoencoder as diffusers' folders have it: configuration and names of the weights."""

from collections.abc import Iterator, Mapping
from typing import Any

from reverie.errors import UserError
from reverie.nets.autoencoder import Autoencoder, AutoencoderConfig
from reverie.systems.building import known
from reverie.systems.folders import Kind
from reverie.systems.names import Layout, renamed

READ = {
    *("in_channels", "out_channels", "block_out_channels", "layers_per_block", "latent_channels", "norm_num_groups"),
    *("down_block_types", "up_block_types", "use_quant_conv", "use_post_quant_conv", "mid_block_add_attention"),
    *("sample_size", "scaling_factor", "shift_factor", "latents_mean", "latents_std", "force_upcast"),
}
"""What of their configuration is looked at, or changes nothing in the function of the net."""


def config(theirs: Mapping[str, Any], what: str = "vae/config.json") -> AutoencoderConfig:
    """Our shape of the autoencoder that a configuration of AutoencoderKL describes; UserError where we have no such net."""
    known(theirs, READ, {"act_fn": ("silu",)}, what, "no autoencoder of Stable Diffusion")
    width = list(theirs["block_out_channels"])
    if theirs.get("use_quant_conv", True) != theirs.get("use_post_quant_conv", True):
        raise UserError(f"{what}: only one of use_quant_conv and use_post_quant_conv is true; ours has both or none")
    return AutoencoderConfig(
        in_channels=theirs["in_channels"],
        channels=width[0],
        mult=tuple(w // width[0] for w in width),
        blocks=theirs.get("layers_per_block", 1),
        latent=theirs["latent_channels"],
        attention=theirs.get("mid_block_add_attention", True),
        attend=attended(theirs, what),
        quant=theirs.get("use_quant_conv", True),
        groups=theirs.get("norm_num_groups", 32),
    )


DOWN = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}
"""Whether a level of the encoder has attention."""


def attended(theirs: Mapping[str, Any], what: str) -> tuple[int, ...]:
    """The levels with attention, which must be those of the decoder, too."""
    down, up = list(theirs["down_block_types"]), list(theirs["up_block_types"])
    if unknown := set(down) - DOWN.keys():
        raise UserError(f"{what}: down_block_types has {unknown.pop()!r}, which our autoencoder has not")
    if up != [_up(kind) for kind in reversed(down)]:
        raise UserError(f"{what}: up_block_types is {up}; ours mirrors the encoder, whose down_block_types is {down}")
    return tuple(i for i, kind in enumerate(down) if DOWN[kind])


def _up(kind: str) -> str:
    """The block of the decoder that mirrors one of the encoder."""
    return kind.replace("Down", "Up").replace("Encoder", "Decoder")


SHARED = (
    (r"^quant\.", "quant_conv."),
    (r"^unquant\.", "post_quant_conv."),
    (r"^(\w+)\.stem\.", r"\1.conv_in."),
    (r"^(encoder|decoder)\.norm\.", r"\1.conv_norm_out."),
    (r"^(encoder|decoder)\.head\.", r"\1.conv_out."),
    (r"\.skip\.", ".conv_shortcut."),
    (r"\.norm\.", ".group_norm."),
    (r"\.attention\.out\.", ".to_out.0."),
    (r"\.attention\.([qkv])\.", r".to_\1."),
)


def layout(c: AutoencoderConfig) -> Layout:
    """The names for an autoencoder of this shape: its bodies are numbered through, theirs by level."""
    places = [*_bodies(c)]
    last = 2 if c.attention else 1
    middles = [(r"\.middle\.0\.", ".mid_block.resnets.0."), (rf"\.middle\.{last}\.", ".mid_block.resnets.1.")]
    return renamed((*places, *middles, (r"\.middle\.1\.", ".mid_block.attentions.0."), *SHARED))


def _bodies(c: AutoencoderConfig) -> Iterator[tuple[str, str]]:
    levels = len(c.mult)
    looks = {"down": [i in c.attend for i in range(levels)], "up": [i in c.attend for i in reversed(range(levels))]}
    for part, way, blocks in (("encoder", "down", c.blocks), ("decoder", "up", c.blocks + 1)):
        place = 0
        for i in range(levels):
            for j in range(blocks):
                yield rf"^{part}\.body\.{place}\.", f"{part}.{way}_blocks.{i}.resnets.{j}."
                if looks[way][i]:
                    yield rf"^{part}\.body\.{place + 1}\.", f"{part}.{way}_blocks.{i}.attentions.{j}."
                place += 1 + looks[way][i]
            if i < levels - 1:
                yield rf"^{part}\.body\.{place}\.", f"{part}.{way}_blocks.{i}.{way}samplers.0."
                place += 1


def said(c: AutoencoderConfig) -> dict[str, Any]:
    """The configuration of AutoencoderKL that describes our shape."""
    if c.patch > 1 or c.straight:
        raise UserError(
            "diffusers' AutoencoderKL has no stem of patches and no straight path: this autoencoder has, and stays ours"
        )
    down = ["AttnDownEncoderBlock2D" if i in c.attend else "DownEncoderBlock2D" for i in range(len(c.mult))]
    return {
        "in_channels": c.in_channels,
        "out_channels": c.in_channels,
        "block_out_channels": c.widths,
        "down_block_types": down,
        "up_block_types": [_up(kind) for kind in reversed(down)],
        "layers_per_block": c.blocks,
        "latent_channels": c.latent,
        "norm_num_groups": c.groups,
        "mid_block_add_attention": c.attention,
        "use_quant_conv": c.quant,
        "use_post_quant_conv": c.quant,
    }


KIND = Kind(name="AutoencoderKL", build=Autoencoder, config=config, said=said, layout=layout)
