"""How an autoencoder is trained on any pictures: small enough for two CPU cores, after arXiv:2112.10752.

reverie train autoencoder --source emoji --data emoji.safetensors --out runs/emoji-codec
"""

from reverie.nets.autoencoder import AutoencoderConfig
from reverie.nets.patchgan import PatchGANConfig
from reverie.systems.stages import AutoencoderRecipe
from reverie.train.loop import Training

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
