"""How an autoencoder is trained on any pictures: small enough for two CPU cores, after arXiv:2112.10752.

reverie train autoencoder --source emoji --data emoji.safetensors --out runs/emoji-codec
"""

from reverie.nets.autoencoder import AutoencoderConfig
from reverie.nets.patchgan import PatchGANConfig
from reverie.systems.stages import AutoencoderRecipe
from reverie.train.loop import Training

AUTOENCODER = AutoencoderRecipe(
    name="autoencoder",
    about="pictures into latents 8 times smaller and back, for latent diffusion",
    source="avatars",
    net=AutoencoderConfig(patch=2, channels=32, mult=(1, 2, 4), blocks=1, latent=16, groups=8, straight=True),
    critic=PatchGANConfig(channels=32, layers=2),
    training=Training(minutes=60, batch=16, rate=1e-3, warmup=200, decay=0.5, holdout=256, widths=(0.03,), snapshots=0),
)
