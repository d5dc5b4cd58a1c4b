"""Stable Diffusion's nets against diffusers 0.42.1: sizes, names, and the same numbers from the same random weights."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.embeddings import get_timestep_embedding

from reverie.errors import UserError
from reverie.nets.autoencoder import Autoencoder
from reverie.nets.unet import UNet
from reverie.systems.names import given, taken
from reverie.systems.stable_diffusion import unet, vae

CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"


def blocks(*down):
    up = [kind.replace("Down", "Up") for kind in reversed(down)]
    return {"down_block_types": down, "up_block_types": tuple(up)}


def told(width):
    return {"addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": width}


LINEAR = {"use_linear_projection": True}
FULL = {
    "sd1": (859_520_964, {"cross_attention_dim": 768}),
    "sd1-inpaint": (859_535_364, {"cross_attention_dim": 768, "in_channels": 9}),
    "sd2": (865_910_724, {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], **LINEAR}),
    "sdxl": (
        2_567_463_684,
        {
            "block_out_channels": (320, 640, 1280),
            **blocks(PLAIN, CROSS, CROSS),
            "attention_head_dim": [5, 10, 20],
            "transformer_layers_per_block": [1, 2, 10],
            "cross_attention_dim": 2048,
            **LINEAR,
            **told(2816),
        },
    ),
    "sdxl-refiner": (
        2_259_526_660,
        {
            "block_out_channels": (384, 768, 1536, 1536),
            **blocks(PLAIN, CROSS, CROSS, PLAIN),
            "attention_head_dim": [6, 12, 24, 24],
            "transformer_layers_per_block": 4,
            "cross_attention_dim": 1280,
            **LINEAR,
            **told(2560),
        },
    ),
}


@pytest.mark.parametrize("name", FULL)
def test_full_sizes_and_names(name):
    count, options = FULL[name]
    with torch.device("meta"):
        theirs = UNet2DConditionModel(**options)
        ours = UNet(unet.config(dict(theirs.config)))
    assert sum(p.numel() for p in ours.parameters()) == count
    assert len(given(ours, theirs.state_dict(), unet.layout, name)) == len(theirs.state_dict())


SMALL = {"block_out_channels": (32, 64, 64), "norm_num_groups": 8, "sample_size": 16, "cross_attention_dim": 24}
TINY = {
    "sd1": {**SMALL, **blocks(CROSS, CROSS, PLAIN), "attention_head_dim": 4},
    "sd2": {**SMALL, **blocks(CROSS, CROSS, PLAIN), "attention_head_dim": [2, 4, 4], **LINEAR},
    "sdxl": {
        **SMALL,
        **blocks(PLAIN, CROSS, CROSS),
        "attention_head_dim": [2, 4, 4],
        "transformer_layers_per_block": [1, 2, 3],
        **LINEAR,
        **told(64),
        "addition_time_embed_dim": 8,
    },
}


def pair(name):
    torch.manual_seed(0)
    theirs = UNet2DConditionModel(**TINY[name]).eval()
    ours = UNet(unet.config(dict(theirs.config))).eval()
    ours.load_state_dict(given(ours, theirs.state_dict(), unet.layout, name))
    return theirs, ours


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_the_same_numbers_and_back(name):
    theirs, ours = pair(name)
    x, tokens, steps = torch.randn(2, 4, 16, 16), torch.randn(2, 7, 24), torch.tensor([3, 700])
    said, vector = {}, None
    if name == "sdxl":
        said = {"text_embeds": torch.randn(2, 16), "time_ids": 100 * torch.rand(2, 6)}
        times = get_timestep_embedding(said["time_ids"].flatten(), 8, flip_sin_to_cos=True, downscale_freq_shift=0)
        vector = torch.cat([said["text_embeds"], times.reshape(2, -1)], 1)
    a = theirs(x, steps, tokens, added_cond_kwargs=said).sample
    b = ours(x, steps.float(), tokens=tokens, vector=vector)
    assert (a - b).abs().max() < 1e-5 * a.abs().max()
    pointwise = (lambda n: "proj_" in n and n.endswith("weight")) if name == "sd1" else (lambda n: False)
    again = UNet2DConditionModel(**TINY[name])
    again.load_state_dict(taken(ours, unet.layout, pointwise))
    assert all(torch.equal(p, q) for p, q in zip(again.parameters(), theirs.parameters(), strict=True))


def test_what_does_not_fit_is_named():
    theirs, ours = pair("sd1")
    tensors = theirs.state_dict()
    tensors["conv_extra.weight"] = tensors.pop("conv_in.weight")
    tensors["conv_out.bias"] = torch.zeros(7)
    with pytest.raises(
        UserError, match=r"of \d+ tensors applied; missing: conv_in.weight; unknown: conv_extra.*shape: conv_out.bias"
    ):
        given(ours, tensors, unet.layout, "unet")
    with pytest.raises(UserError, match="class_embed_type is 'timestep'"):
        unet.config(dict(theirs.config) | {"class_embed_type": "timestep"})


def kl(levels, **options):
    return {"down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels, **options}


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (83_653_863, {"latent_channels": 4}),
        (83_819_683, {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}),
    ],
)
def test_full_size_of_autoencoders(count, options):
    with torch.device("meta"):
        theirs = AutoencoderKL(**kl(4, block_out_channels=(128, 256, 512, 512), layers_per_block=2, **options))
        ours = Autoencoder(vae.config(dict(theirs.config)))
    assert sum(p.numel() for p in ours.parameters()) == count
    assert len(given(ours, theirs.state_dict(), vae.layout(ours.config), "vae")) == len(theirs.state_dict())


@pytest.mark.parametrize(
    "options", [{}, {"use_quant_conv": False, "use_post_quant_conv": False}, {"mid_block_add_attention": False}]
)
@torch.no_grad()
def test_autoencoders_say_the_same(options):
    torch.manual_seed(0)
    theirs = AutoencoderKL(**kl(3, block_out_channels=(16, 32, 32), layers_per_block=2, norm_num_groups=8, **options)).eval()
    ours = Autoencoder(vae.config(dict(theirs.config))).eval()
    names = vae.layout(ours.config)
    ours.load_state_dict(given(ours, theirs.state_dict(), names, "vae"))
    x = torch.randn(2, 3, 32, 32)
    found, (mean, logvar) = theirs.encode(x).latent_dist, ours.encode(x)
    assert (found.mean - mean).abs().max() < 1e-5 and (found.logvar - logvar).abs().max() < 1e-5
    again = theirs.decode(mean).sample
    assert (again - ours.decode(mean)).abs().max() < 1e-5 * again.abs().max()
    back = taken(ours, names)
    assert all(torch.equal(back[name], value) for name, value in theirs.state_dict().items()) and len(back) == len(
        theirs.state_dict()
    )
