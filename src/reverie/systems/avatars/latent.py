"""How avatars of 128 px are learnt in latents: an autoencoder first, then a multimodal transformer, after arXiv:2403.03206.

reverie data avatars --count 10000 --size 128 --out avatars-128.safetensors
reverie train avatars-autoencoder --data avatars-128.safetensors
reverie train avatars-latent --data avatars-128.safetensors

What a prompt tells of each attribute is a token of the transformer's stream of text, and all of it together its vector.
"""

from dataclasses import replace

from reverie.nets.autoencoder import AutoencoderConfig
from reverie.nets.mmdit import MMDiTConfig
from reverie.systems.autoencoder.recipe import AUTOENCODER
from reverie.systems.avatars.recipe import AVATARS, CONCEPTS
from reverie.systems.recipe import Objective, Recipe
from reverie.systems.system import Sampling
from reverie.train.training import Training

NET = MMDiTConfig(
    in_channels=8,
    patch=2,
    width=128,
    heads=4,
    depth=6,
    context_dim=CONCEPTS,
    vector_dim=CONCEPTS,
    size=8,
    table=8,
    gelu="none",
)

AUTOENCODER_128 = replace(
    AUTOENCODER,
    name="avatars-autoencoder",
    about="avatars of 128 px into 16x16 latents of 8 channels, and back",
    size=128,
    net=AutoencoderConfig(patch=8, channels=128, mult=(1,), blocks=1, latent=8, attention=False, groups=8, straight=True),
    perceptual=0.0,  # it would take twice the time of all the rest, and drawings have few textures
    training=Training(minutes=20, batch=8, rate=1e-3, warmup=100, decay=0.5, holdout=256, widths=(0.03,), snapshots=0),
)

LATENT = Recipe(
    name="avatars-latent",
    about="text to drawn faces of 128 px by rectified flow in latents; needs avatars-autoencoder",
    source="avatars",
    size=128,
    shrink=8,
    codec="runs/avatars-autoencoder",
    wording="reverie-avatars",
    apart=True,
    net=NET,
    objective=Objective(path="flow()", rule="velocity()", clock="timestep()", times="logit_normal()"),
    sampling=Sampling(solver="dpmpp-2m", steps=20, guidance=3.0, grid="uniform()", size=(128, 128)),
    training=Training(minutes=60, batch=16, rate=2e-3, warmup=200, decay=0.5, holdout=256, validate_minutes=6),
    samples=AVATARS.samples,
)
