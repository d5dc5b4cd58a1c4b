"""How the Fashion-MNIST model is trained."""

from reverie.nets.dit import DiTConfig
from reverie.systems.recipe import Objective, Recipe
from reverie.systems.system import Sampling
from reverie.train.training import Training

FASHION = Recipe(
    name="fashion-mnist",
    about="ten kinds of clothes, 32 px, class-conditional; minutes on a laptop",
    source="fashion-mnist",
    size=32,
    net=DiTConfig(in_channels=1, size=32, patch=4, width=160, depth=6, heads=5, learn_sigma=False, vector_dim=128, gelu="none"),
    objective=Objective(
        path="edm()", rule="edm(sigma_data=0.5)", sigma_data=0.5, times="log_normal(mean=-0.8, deviation=1.4)", drop=0.1
    ),
    sampling=Sampling(solver="dpmpp-2m", steps=20, guidance=2.0, grid="karras(smallest=0.01, largest=80)", size=(32, 32)),
    training=Training(minutes=10, batch=16, rate=2e-3, warmup=200, decay=0.5),
)
