"""Autoencoders of latent diffusion against diffusers 0.42.1: published sizes, names, the same numbers, and what is refused."""

import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderKL, VQModel

from reverie.errors import UserError
from reverie.nets.autoencoder import KL_F4, KL_F8, KL_F16, KL_F32, Autoencoder
from reverie.nets.dcae import DCAE, DCAE_F32, DCAEConfig
from reverie.nets.patchgan import PatchGAN, PatchGANConfig
from reverie.nets.vq import VQ_F4, VQ_F4_NOATTN, VQ_F8, VQ_F8_N256, VQ_F16, Codebook, VQAutoencoder
from reverie.systems.ldm import vq
from reverie.systems.names import given, taken
from reverie.systems.sana import dcae
from reverie.systems.stable_diffusion import vae

PUBLISHED = {
    "kl-f4": (Autoencoder, KL_F4, 55_312_063),
    "kl-f8": (Autoencoder, KL_F8, 83_653_863),
    "kl-f16": (Autoencoder, KL_F16, 69_610_963),
    "kl-f32": (Autoencoder, KL_F32, 103_880_131),
    "vq-f4": (VQAutoencoder, VQ_F4, 55_322_782),
    "vq-f4-noattn": (VQAutoencoder, VQ_F4_NOATTN, 53_219_486),
    "vq-f8": (VQAutoencoder, VQ_F8, 67_717_295),
    "vq-f8-n256": (VQAutoencoder, VQ_F8_N256, 67_652_783),
    "vq-f16": (VQAutoencoder, VQ_F16, 69_593_371),
    "dc-ae-f32": (DCAE, DCAE_F32, 312_250_275),
    "patchgan": (PatchGAN, PatchGANConfig(), 2_765_633),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    build, config, count = PUBLISHED[name]
    with torch.device("meta"):
        net = build(config)
    assert sum(p.numel() for p in net.parameters()) == count


def kl(levels, attend=(), **options):
    down = ["AttnDownEncoderBlock2D" if i in attend else "DownEncoderBlock2D" for i in range(levels)]
    up = [kind.replace("Down", "Up").replace("Encoder", "Decoder") for kind in reversed(down)]
    return {"down_block_types": down, "up_block_types": up, "layers_per_block": 2, **options}


DEEP = {
    "encoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
    "decoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
    "downsample_block_type": "Conv",
    "upsample_block_type": "interpolate",
}
SHALLOW = {
    "latent_channels": 8,
    "attention_head_dim": 8,
    **{f"{part}_block_types": ["ResBlock", "EfficientViTBlock"] for part in ("encoder", "decoder")},
    **{f"{part}_block_out_channels": [16, 32] for part in ("encoder", "decoder")},
    "encoder_layers_per_block": [1, 2],
    "decoder_layers_per_block": [2, 1],
    **{f"{part}_qkv_multiscales": [[], [3, 5]] for part in ("encoder", "decoder")},
}
FOLDED = {"downsample_block_type": "pixel_unshuffle", "upsample_block_type": "pixel_shuffle"}
STRIDED = {"downsample_block_type": "conv", "upsample_block_type": "interpolate"}
SMALL = {"block_out_channels": (16, 32, 32), "norm_num_groups": 8}
WIDE = {"block_out_channels": (128, 256, 512), "latent_channels": 3}
CASES = {  # name: theirs, its options, our net, configuration, layout
    "kl": (AutoencoderKL, kl(3, (1, 2), **SMALL), Autoencoder, vae.config, vae.layout),
    "vq": (VQModel, kl(3, (2,), **SMALL), VQAutoencoder, vq.config, vq.layout),
    "vq without attention": (VQModel, kl(2, block_out_channels=(16, 32), norm_num_groups=8, mid_block_add_attention=False),
                             VQAutoencoder, vq.config, vq.layout),
    "dc-ae folded": (AutoencoderDC, SHALLOW | FOLDED, DCAE, dcae.config, dcae.layout),
    "dc-ae strided": (AutoencoderDC, SHALLOW | STRIDED, DCAE, dcae.config, dcae.layout),
}  # fmt: skip


def pair(name):
    torch.manual_seed(0)
    theirs, options, build, config, layout = CASES[name]
    theirs = theirs(**options).eval()
    for part in theirs.parameters():  # norms and biases say something, too; codes lie where latents do
        if part.ndim < 2 or part.shape[0] == 256:
            torch.nn.init.normal_(part, std=0.5)
    ours = build(config(dict(theirs.config))).eval()
    names = layout(ours.config)
    ours.load_state_dict(given(ours, theirs.state_dict(), names, name))
    return theirs, ours, names


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_the_same_numbers_and_back(name):
    theirs, ours, names = pair(name)
    x = torch.randn(2, 3, 32, 32)
    found, z = theirs.encode(x), ours.encode(x)
    if name == "kl":
        z, found = z[0], found.latent_dist.mean
    else:
        found = found.latents if name.startswith("vq") else found.latent
    assert (found - z).abs().max() < 1e-5 * found.abs().max()
    again = theirs.decode(z).sample
    assert (again - ours.decode(z)).abs().max() < 1e-5 * again.abs().max()
    back = taken(ours, names, pointwise=lambda n: False)
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[k], v) for k, v in theirs.state_dict().items())


@pytest.mark.parametrize(
    ("theirs", "options", "build", "config", "layout", "keys"),
    [
        (VQModel, kl(3, num_vq_embeddings=8192, **WIDE), VQAutoencoder, vq.config, vq.layout, 205),
        (AutoencoderDC, DEEP, DCAE, dcae.config, dcae.layout, 375),
    ],
    ids=["vq-f4", "dc-ae"],
)
def test_full_sizes_and_names(theirs, options, build, config, layout, keys):
    with torch.device("meta"):
        theirs = theirs(**options)
        ours = build(config(dict(theirs.config)))
    assert len(theirs.state_dict()) == keys
    assert len(given(ours, theirs.state_dict(), layout(ours.config), "it")) == len(ours.state_dict())
    assert ours.config in (VQ_F4, DCAE_F32)


REFUSED = {
    "another norm": (vq.config, "vq", {"norm_type": "spatial"}, "norm_type is 'spatial'"),
    "other code widths": (vq.config, "vq", {"vq_embed_dim": 8}, "vq_embed_dim is 8"),
    "another level": (vq.config, "vq", {"down_block_types": ["CrossAttnDownBlock2D"] * 3}, "CrossAttnDownBlock2D"),
    "no mirror": (vae.config, "kl", {"up_block_types": ["UpDecoderBlock2D"] * 3}, "ours mirrors the encoder"),
    "an unknown field": (dcae.config, "dc-ae folded", {"colour": 3}, "colour is 3"),
    "mixed sizes": (dcae.config, "dc-ae folded", {"upsample_block_type": "interpolate"}, "levels change size by"),
    "another block": (dcae.config, "dc-ae folded", {"encoder_block_types": "Odd"}, "'Odd'"),
    "other norms": (dcae.config, "dc-ae folded", {"decoder_norm_types": ["batch_norm", "rms_norm"]}, "decoder_norm_types"),
    "an empty level": (dcae.config, "dc-ae folded", {"encoder_layers_per_block": [0, 2]}, "one or more blocks"),
    "other widths": (dcae.config, "dc-ae folded", {"decoder_block_out_channels": [8, 32]}, "other widths"),
    "other looks": (dcae.config, "dc-ae folded", {"decoder_block_types": "ResBlock"}, "other kinds of blocks"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_ours_has_not_is_refused(name):
    config, case, change, said = REFUSED[name]
    theirs, options = CASES[case][:2]
    with pytest.raises(UserError, match=said):
        config(dict(theirs(**options).config) | change)


def test_a_code_is_the_nearest_vector_and_gradients_pass_it_by():
    torch.manual_seed(0)
    book = Codebook(6, 3)
    torch.nn.init.normal_(book.weight)
    z = torch.randn(2, 3, 4, 4, requires_grad=True)
    near = torch.cdist(z.permute(0, 2, 3, 1).reshape(-1, 3), book.weight).argmin(1).view(2, 4, 4)
    assert torch.equal(book.indices(z), near)
    q = book(z)
    torch.testing.assert_close(q, book.weight[near].permute(0, 3, 1, 2))
    torch.testing.assert_close(book(q.detach()), q)  # what lies on a vector stays there
    (3 * q).sum().backward()
    assert (z.grad == 3).all() and book.weight.grad is None


def test_shapes_that_cannot_be_are_named():
    with pytest.raises(ValueError, match="multiples of 2, got"):
        DCAE(DCAEConfig(widths=(8, 16), encoder=(1, 1), decoder=(1, 1), attend=(), latent=4)).encode(torch.zeros(1, 3, 7, 8))
    with pytest.raises(ValueError, match="not a multiple of 5"):
        DCAEConfig(latent=5)
