"""How the judge of reverie-emoji is trained: on real pictures alone, without the concepts that it is to judge.

reverie train emoji-reader --data emoji.safetensors --out runs/emoji-reader
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.data.emoji_prompts import parted, wishes
from reverie.data.pictures import Pictures
from reverie.measure.features import imagenet
from reverie.measure.matching import Matcher
from reverie.nets.precision import inside
from reverie.systems.emoji.kept import kept
from reverie.systems.emoji.words import taught
from reverie.systems.recipe import Preset
from reverie.systems.system import Part
from reverie.train.distilling import MiniLM
from reverie.train.loop import Job
from reverie.train.matching import Matching

ASKED = "prompt"
"""The name of what it reads."""


@dataclass(frozen=True, kw_only=True)
class MatcherRecipe(Preset):
    """A matcher of pictures with the 200 prompts of `data/emoji_prompts.py`."""

    hidden: int = 512
    sentences: int = 12
    """How many things each concept is called, at most: its name, and captions without a style."""

    def prepare(self, pictures: Pictures) -> tuple[Part, Job]:
        """A fresh matcher, and its training job; features and sentences are read first, which takes minutes."""
        train, held = parted(pictures)
        known, shows = ([a["label"] for a in some.attributes or ()] for some in (train, held))
        texts = [wish.text for wish in wishes()]
        names = sorted(set(known))
        said = [_called(name, [i for i, label in enumerate(known) if label == name], train, self.sentences) for name in names]
        teacher, dtype = MiniLM(), self.training.autocast
        vectors = taught(teacher, [s for some in said for s in some] + texts, dtype).float()
        counts = [len(some) for some in said]
        torch.manual_seed(self.training.seed)
        matcher = Matcher(ASKED, texts, self.hidden)
        with inside(dtype, torch.device("cpu")):
            job = Matching(
                matcher,
                torch.stack([_seen(images) for images in (train.images, softened(train.images))]),
                np.array([names.index(label) for label in known]),
                vectors[: sum(counts)].split(counts),
                vectors[sum(counts) :],
                _seen(held.images),
                np.array([texts.index(label) for label in shows]),
            )
        return Part(reader=matcher, about=self.card(pictures)), job


def _called(name: str, rows: Sequence[int], pictures: Pictures, count: int) -> list[str]:
    """The name and what captions say beside it, without styles; all different, and the same whenever it is asked."""
    rng, caption = np.random.default_rng(0), pictures.caption
    assert caption is not None
    drawn = (caption(rows[k % len(rows)], rng) for k in range(count - 1))
    plain = (", ".join(p for p in text.split(", ") if not p.endswith((" style", " emoji"))) for text in drawn)
    return list(dict.fromkeys([name, *filter(None, plain)]))


def _seen(images: np.ndarray) -> Tensor:
    return kept("seen", images.tobytes(), lambda: torch.from_numpy(imagenet()(images)).float())


def softened(images: np.ndarray) -> np.ndarray:
    """uint8 (N, C, H, W) brought to half their size and back, so that the slight blur of generated pictures is not what is read."""
    x = torch.from_numpy(images).float()
    small = F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)
    out: np.ndarray = F.interpolate(small, x.shape[2:], mode="bilinear").round().to(torch.uint8).numpy()
    return out
