"""How a folder of pictures is learnt: a pixel U-Net of the same family as the others."""

from reverie.nets.text import TextConfig
from reverie.nets.unet import UNetConfig
from reverie.systems.recipe import Objective, Recipe
from reverie.systems.system import Sampling
from reverie.train.training import Training

FOLDER = Recipe(
    name="folder",
    about="your own pictures: --data DIR, with captions, class sub-folders, or neither",
    source="folder",
    size=32,
    net=UNetConfig(
        patch=2, channels=48, mult=(1, 2), blocks=1, attention=(1,), head_width=32, context_dim=96, vector_dim=96, groups=8
    ),
    words=TextConfig(width=96, depth=2, heads=4, length=32),
    objective=Objective(rule="edm(sigma_data=0.5)", sigma_data=0.5, times="log_normal(mean=-0.8, deviation=1.4)"),
    sampling=Sampling(steps=20, guidance=2.0, grid="karras(smallest=0.01, largest=80)", size=(32, 32)),
    training=Training(minutes=20, batch=32, rate=2e-3, decay=0.5),
)
