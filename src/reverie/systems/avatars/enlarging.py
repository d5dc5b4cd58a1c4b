"""A cascade for avatars, and a net that mends them: diffusions that see a picture (Ho et al., arXiv:2106.15282; arXiv:2111.05826).

reverie train avatars-32 --out runs/avatars-32                  words into 32 px
reverie train avatars-64 --out runs/avatars-64                  32 px into 64
reverie train avatars-128 --data avatars-128.safetensors --out runs/avatars-128      64 px into 128
reverie generate "a bald man" --model runs/avatars-32 --then runs/avatars-64 runs/avatars-128

Each stage sees the picture before it with noise of a random deviation, of which it is told, so that it forgives what that stage
got wrong (conditioning augmentation). What the enlargers say is the clean picture: a net whose places hold 2x2 or 4x4 pixels in few
channels cannot say their noise, and would leave it in what it draws (arXiv:2511.13720).
"""

from dataclasses import replace

from reverie.nets.unet import UNetConfig
from reverie.systems.avatars.latent import NET as TRANSFORMER
from reverie.systems.avatars.recipe import AVATARS
from reverie.systems.avatars.recipe import NET as AVATARS_NET
from reverie.systems.recipe import Objective, Recipe
from reverie.systems.system import Sampling
from reverie.train.training import Training

OBJECTIVE = Objective(rule="x0()", sigma_data=0.6, weight="flat()", times="log_normal(mean=-0.6, deviation=1.4)")
SAMPLING = Sampling(solver="dpmpp-2m", steps=12, guidance=1.0, grid="karras(smallest=0.02, largest=80)", size=(64, 64))
NET = UNetConfig(
    in_channels=7, out_channels=3, channels=32, mult=(1, 2, 4), blocks=1, attention=(2,), head_width=32, patch=2, groups=8
)
TRAINING = Training(minutes=15, batch=16, rate=2e-3, warmup=100, decay=0.5, holdout=256, widths=(0.05,), snapshots=0)

SMALL = replace(
    AVATARS,
    name="avatars-32",
    about="words into avatars of 32 px: the first stage of a cascade",
    size=32,
    shrink=1,
    codec="",
    apart=True,
    net=replace(TRANSFORMER, in_channels=3, patch=4),
    sampling=replace(AVATARS.sampling, size=(32, 32)),
    training=replace(AVATARS.training, minutes=15, steps=None),
)

MIDDLE = Recipe(
    name="avatars-64",
    about="avatars of 32 px into 64: the second stage of a cascade",
    source="avatars",
    damages=("small(factor=2, noise=0.4)",),
    net=NET,
    objective=OBJECTIVE,
    sampling=SAMPLING,
    training=TRAINING,
)

LARGE = replace(
    MIDDLE,
    name="avatars-128",
    about="avatars of 64 px into 128: the last stage of a cascade",
    size=128,
    net=replace(NET, patch=4, channels=48, mult=(1, 2), blocks=2, attention=()),
    sampling=replace(SAMPLING, size=(128, 128)),
)

REPAIR = replace(
    MIDDLE,
    name="avatars-repair",
    about="avatars made whole: colours, holes, edges, JPEG's blocks",
    damages=("grey()", "jpeg(least=5, most=40)", "hole()", "uncrop()"),
    shrink=2,
    codec="reverie-avatars",
    net=replace(AVATARS_NET, in_channels=7, seen=4, vector_dim=None),
    objective=replace(AVATARS.objective, times="log_normal(mean=0.0, deviation=1.6)"),  # what is missing is chosen in much noise
    sampling=replace(SAMPLING, steps=20),
    training=replace(TRAINING, minutes=60, warmup=200),
)
