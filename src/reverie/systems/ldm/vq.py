"""The vector-quantised autoencoder as diffusers' VQModel has it: configuration and names of the weights."""

from collections.abc import Mapping
from typing import Any

from reverie.errors import UserError
from reverie.nets.vq import VQAutoencoder, VQConfig
from reverie.systems.building import known
from reverie.systems.folders import Kind
from reverie.systems.names import Layout, renamed
from reverie.systems.stable_diffusion import vae

READ = {
    *("in_channels", "out_channels", "block_out_channels", "layers_per_block", "latent_channels", "norm_num_groups"),
    *("down_block_types", "up_block_types", "mid_block_add_attention", "num_vq_embeddings", "vq_embed_dim"),
    *("sample_size", "scaling_factor", "shift_factor", "force_upcast"),
}
"""What of their configuration is looked at, or changes nothing in the function of the net."""
FIXED: Mapping[str, tuple[Any, ...]] = {"act_fn": ("silu",), "norm_type": ("group",)}


def config(theirs: Mapping[str, Any], what: str = "vqvae/config.json") -> VQConfig:
    """Our shape of the autoencoder that a configuration of VQModel describes; UserError where we have no such net."""
    known(theirs, READ, FIXED, what, "no autoencoder of LDM")
    if theirs.get("vq_embed_dim") not in (None, theirs["latent_channels"]):
        raise UserError(
            f"{what}: vq_embed_dim is {theirs['vq_embed_dim']}; ours is as wide as the latent, {theirs['latent_channels']}"
        )
    width = list(theirs["block_out_channels"])
    return VQConfig(
        in_channels=theirs["in_channels"],
        channels=width[0],
        mult=tuple(w // width[0] for w in width),
        blocks=theirs.get("layers_per_block", 1),
        latent=theirs["latent_channels"],
        attention=theirs.get("mid_block_add_attention", True),
        attend=vae.attended(theirs, what),
        groups=theirs.get("norm_num_groups", 32),
        codes=theirs.get("num_vq_embeddings", 256),
    )


def layout(c: VQConfig) -> Layout:
    """The names for an autoencoder of this shape."""
    rest, book = vae.layout(c), renamed([(r"^codebook\.", "quantize.embedding.")])
    return lambda key: rest(book(key))


def said(c: VQConfig) -> dict[str, Any]:
    """The configuration of VQModel that describes our shape."""
    if not c.quant:
        raise UserError("diffusers' VQModel has convolutions of one place on either side of its codes: this autoencoder has none")
    told = {k: v for k, v in vae.said(c).items() if not k.startswith("use_")}
    return {**told, "num_vq_embeddings": c.codes, "vq_embed_dim": c.latent}


KIND = Kind(name="VQModel", build=VQAutoencoder, config=config, said=said, layout=layout)
