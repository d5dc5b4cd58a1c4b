"""How an autoencoder is trained on any pictures: small enough for two CPU cores, after arXiv:2112.10752.

reverie train autoencoder --source emoji --data emoji.safetensors --out runs/emoji-codec
"""

from dataclasses import replace

from reverie.nets.autoencoder import AutoencoderConfig
from reverie.nets.dcae import DCAEConfig
from reverie.nets.patchgan import PatchGANConfig
from reverie.nets.vq import VQConfig
from reverie.systems.stages import AutoencoderRecipe
from reverie.train.training import Training

AUTOENCODER = AutoencoderRecipe(
    name="autoencoder",
    about="pictures into latents 4 times smaller and back, for latent diffusion",
    source="avatars",
    net=AutoencoderConfig(patch=4, channels=96, mult=(1,), blocks=2, latent=6, groups=8, straight=True),
    perceptual=0.05,
    kl=0.03,  # more than published: the decoder bears the small errors of a small diffusion, and the latents keep their size
    critic=PatchGANConfig(channels=32, layers=2),
    training=Training(minutes=60, batch=16, rate=1e-3, warmup=100, decay=0.5, holdout=256, widths=(0.03,), snapshots=0),
)

VQ_AUTOENCODER = replace(
    AUTOENCODER,
    name="autoencoder-vq",
    about="the same with a codebook: latents of 1,024 codes",
    net=VQConfig(patch=4, channels=96, mult=(1,), blocks=2, latent=4, groups=8, codes=1024),
)

DC_AUTOENCODER = replace(
    AUTOENCODER,
    name="autoencoder-dc",
    about="deep compression: latents 16 times smaller, of 64 channels",
    net=DCAEConfig(
        latent=64, widths=(16, 32, 64, 128, 256), encoder=(1, 1, 1, 1, 1), decoder=(1, 1, 1, 1, 1), attend=(3, 4), head=16
    ),
)
