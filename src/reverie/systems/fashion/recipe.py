"""How the Fashion-MNIST model is trained."""

from reverie.nets.unet import UNetConfig
from reverie.systems.recipe import Objective, Recipe
from reverie.systems.system import Sampling
from reverie.train.loop import Training

FASHION = Recipe(
    name="fashion-mnist",
    about="ten kinds of clothes, 32 px, class-conditional; minutes on a laptop",
    source="fashion-mnist",
    size=32,
    net=UNetConfig(
        in_channels=1,
        out_channels=1,
        patch=2,
        channels=32,
        mult=(1, 2),
        blocks=1,
        attention=(1,),
        head_width=32,
        vector_dim=64,
        groups=8,
    ),
    objective=Objective(
        path="edm()", rule="edm(sigma_data=0.5)", sigma_data=0.5, times="log_normal(mean=-0.8, deviation=1.4)", drop=0.1
    ),
    sampling=Sampling(solver="dpmpp-2m", steps=20, guidance=2.0, grid="karras(smallest=0.01, largest=80)", size=(32, 32)),
    training=Training(minutes=10, batch=32, rate=2e-3, decay=0.5, bf16=True),
)
