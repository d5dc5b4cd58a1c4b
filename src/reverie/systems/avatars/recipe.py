"""How reverie-avatars is trained: a small transformer at 32 px, and an enlarger to 64 px."""

from reverie.data.avatars import VALUES
from reverie.nets.dit import DiTConfig
from reverie.nets.text import TextConfig
from reverie.nets.upsampler import UpsamplerConfig
from reverie.systems.recipe import Objective, Recipe
from reverie.systems.stages import EnlargerRecipe, WordingRecipe
from reverie.systems.system import Sampling
from reverie.train.training import Training

CONCEPTS = sum(1 + len(values) for values in VALUES.values())
WORDS = TextConfig(width=128, depth=1, heads=4, length=48, kernel=5)

WORDING = WordingRecipe(
    name="avatars-words",
    about="the text encoder of avatars: attributes from captions",
    source="avatars",
    words=WORDS,
    training=Training(steps=700, batch=128, rate=2e-3, warmup=100, decay=0.6, widths=(0.05,), snapshots=0),
)

ENLARGER = EnlargerRecipe(
    name="avatars-enlarger",
    about="the last stage of avatars: 32 px into 64 px",
    source="avatars",
    net=UpsamplerConfig(channels=48, blocks=5, factor=2),
    training=Training(steps=3000, batch=16, rate=2e-3, decay=0.6, holdout=256, widths=(0.05,), snapshots=0),
)

NET = DiTConfig(in_channels=3, size=32, patch=4, width=256, depth=6, heads=4, learn_sigma=False, vector_dim=CONCEPTS, gelu="none")

AVATARS = Recipe(
    name="avatars",
    about="text to drawn faces in four styles: 32 px by diffusion, 64 px by avatars-enlarger",
    source="avatars",
    shrink=2,
    codec="reverie-avatars",
    wording="reverie-avatars",
    net=NET,
    objective=Objective(rule="edm(sigma_data=0.6)", sigma_data=0.6, times="log_normal(mean=-0.6, deviation=1.4)"),
    sampling=Sampling(solver="dpmpp-2m", steps=20, guidance=3.0, grid="karras(smallest=0.02, largest=80)", size=(64, 64)),
    training=Training(steps=22000, batch=16, rate=2e-3, warmup=200, decay=0.5, holdout=256, validate_minutes=6),
    samples=(
        "a smiling woman with long red hair and round glasses, micah style",
        "a bald man with a beard, avataaars style",
        "green mohawk with a beard and sunglasses, open-peeps style",
        "a sad person with short black hair, pixel-art style",
        "an angry man with a mustache and brown hair, blue hoodie, avataaars style",
        "a surprised girl with a purple bob, yellow shirt, pixel-art style",
        "laughing person with pink curly hair, open-peeps style",
        "a woman with dark skin and a blonde bun, micah style",
        "a man with a red beanie and square glasses, avataaars style",
        "a woman wearing a green hijab, avataaars style",
        "blue long hair, sunglasses, black t-shirt, pixel-art style",
        "gray hair, beard, orange sweater, micah style",
        "a person with an afro and sunglasses, open-peeps style",
        "a smiling man with brown skin and a purple turban, micah style",
        "a person with dreads, pink jacket, avataaars style",
        "a laughing man with a hat, pixel-art style",
    ),
)
