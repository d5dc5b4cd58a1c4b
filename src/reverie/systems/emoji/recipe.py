"""How reverie-emoji is trained: its words first, then its pictures in the latents of an autoencoder.

reverie train emoji-words --data emoji.safetensors --out runs/emoji-words
reverie train autoencoder --source emoji --data emoji.safetensors --out runs/emoji-codec
reverie train emoji --data emoji.safetensors --wording runs/emoji-words --codec runs/emoji-codec --out runs/emoji
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from reverie.data.emoji_prompts import often, parted
from reverie.data.pictures import Pictures
from reverie.denoiser import Denoiser
from reverie.encode import Encoder
from reverie.measure.features import places
from reverie.nets.dit import DiTConfig
from reverie.nets.letters import LettersConfig
from reverie.systems.emoji.kept import kept
from reverie.systems.emoji.reader import MatcherRecipe
from reverie.systems.emoji.words import DistilledRecipe
from reverie.systems.recipe import Objective, Recipe, encode
from reverie.systems.system import Sampling
from reverie.train.aligning import Aligned
from reverie.train.jobs import Diffusion
from reverie.train.training import Training


@dataclass(frozen=True, kw_only=True)
class EmojiRecipe(Recipe):
    """A latent transformer that learns the emoji, but for those it is judged by (`data/emoji_prompts.py`)."""

    align: float = 0.0
    """Weight of the alignment of a hidden layer with EfficientNet-Lite0 (the extra `metrics`; arXiv 2410.06940); 0 = none."""
    align_block: int = 3
    """The block of the transformer that is aligned, counted from 1."""

    def split(self, pictures: Pictures) -> tuple[Pictures, Pictures]:
        """(training, held out): the concepts of `HELD_OUT` are held out; captions are without the words of `PARAPHRASES`."""
        return parted(pictures)

    def card(self, pictures: Pictures | None = None) -> dict[str, Any]:
        """What the file says of its making; and that concepts were held out, so that copies are looked for among the others."""
        about = super().card(pictures)
        return about if pictures is None else {**about, "data": {**about["data"], "held_out": "concepts"}}

    def _job(self, denoiser: Denoiser, codec: Any, encoders: Mapping[str, Encoder], train: Pictures, held: Pictures) -> Diffusion:
        rows = np.repeat(np.arange(len(train)), often(train.attributes or ()))
        data, others = encode(codec, train.images), encode(codec, held.images)
        told = {"encoder": encoders.get("prompt"), "prompt": train.caption, "held_prompt": held.caption}
        named: dict[str, Any] = {**told, "rows": rows, **self.objective.laws(0)}
        if not self.align:
            return Diffusion(denoiser, data, others, **named)
        across = data.shape[-1] // getattr(self.net, "patch", 1)
        seen = kept(f"places{across}", train.images.tobytes(), lambda: places(train.images, across))
        torch.manual_seed(self.training.seed)  # what is read from the cache has drawn no numbers, as building a network does
        return Aligned(denoiser, data, others, **named, seen=seen, block=self.align_block, weight=self.align)


EMOJI_WORDS = DistilledRecipe(
    name="emoji-words",
    about="the text encoder of emoji: MiniLM's sense of words, in 4 million parameters",
    source="emoji",
    words=LettersConfig(),
    training=Training(minutes=15, batch=128, rate=2e-3, warmup=200, decay=0.6, holdout=2000, widths=(0.05,), snapshots=0),
)

EMOJI = EmojiRecipe(
    name="emoji",
    about="any words to an emoji of 64 px in three styles; needs emoji-words and an autoencoder",
    source="emoji",
    shrink=4,
    codec="runs/emoji-codec",
    wording="runs/emoji-words",
    net=DiTConfig(
        in_channels=6,
        size=16,
        patch=2,
        width=256,
        depth=8,
        heads=4,
        learn_sigma=False,
        context_dim=256,
        vector_dim=384,
        gelu="none",
    ),
    objective=Objective(path="flow()", rule="velocity()", clock="timestep()", times="logit_normal()"),
    sampling=Sampling(solver="dpmpp-2m", steps=20, guidance=3.0, grid="uniform()", size=(64, 64)),
    align=0.5,
    training=Training(
        steps=60_000,
        batch=32,
        rate=1e-3,
        warmup=500,
        decay=0.5,
        widths=(0.05, 0.10),
        snapshots=12,
        save_minutes=5,
        validate_minutes=20,
    ),
    samples=(
        "cat, noto style",
        "cat, fluent flat style",
        "cat, fluent 3d style",
        "dog face, noto style",
        "pizza, fluent 3d style",
        "red apple, fluent flat style",
        "house, noto style",
        "fire engine, fluent 3d style",
        "grinning face, noto style",
        "loudly crying face, fluent 3d style",
        "red heart, fluent flat style",
        "rose, noto style",
        "elephant, fluent flat style",
        "octopus, fluent 3d style",
        "crown, noto style",
        "books, fluent 3d style",
        "airplane, fluent flat style",
        "moon cake, noto style",
        "christmas tree, noto style",
        "soccer ball, fluent 3d style",
        "woman firefighter, noto style",
        "thumbs up, fluent 3d style",
        "flag: japan, noto style",
        "umbrella, fluent flat style",
        "fox, noto style",
        "penguin, fluent 3d style",
        "rocket, noto style",
        "sunflower, fluent flat style",
        "doughnut, fluent 3d style",
        "guitar, noto style",
        "kitty, fluent 3d style",
        "bunny, noto style",
        "bike, fluent flat style",
        "puppy, noto style",
        "blue apple, noto style",
        "green cat, fluent 3d style",
        "pink elephant, fluent flat style",
        "yellow car, noto style",
        "cat with a top hat, fluent 3d style",
        "blue rose, noto style",
    ),
)

EMOJI_READER = MatcherRecipe(
    name="emoji-reader",
    about="the judge of emoji: finds the prompt that a picture shows among 200",
    source="emoji",
    training=Training(
        steps=800, batch=256, rate=1e-3, warmup=50, decay=0.7, weight_decay=0.1, widths=(0.1,), snapshots=0, bf16=False, seed=103
    ),
)
