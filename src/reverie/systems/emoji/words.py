"""How the text encoder of reverie-emoji is trained: alone, by what a larger one makes of many phrases."""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.data.npm import cache
from reverie.data.phrases import WORDNET, lemmas, phrases
from reverie.data.pictures import Pictures
from reverie.encode import Letters
from reverie.files import load_tensors, save_tensors
from reverie.nets.letters import LettersConfig
from reverie.nets.precision import inside
from reverie.systems.recipe import Preset
from reverie.systems.system import Part
from reverie.train.distilling import Distilling, minilm
from reverie.train.loop import Job


def taught(said: Sequence[str], dtype: torch.dtype | None) -> Tensor:
    """The teacher's vectors (N, D) of these phrases, float16; kept in the cache for runs that go on."""
    name = hashlib.sha256("\n".join((*said, str(dtype))).encode()).hexdigest()[:16]
    path = cache().parent / "teacher" / f"minilm-{name}.safetensors"
    if path.exists():
        return load_tensors(path)[0]["vectors"]
    print(f"reverie: the teacher reads {len(said)} phrases", file=sys.stderr)
    teacher = minilm()
    with inside(dtype, torch.device("cpu")):
        vectors = teacher(said).half()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, {"vectors": vectors}, {})
    return vectors


@dataclass(frozen=True, kw_only=True)
class DistilledRecipe(Preset):
    """A text encoder that learns from a larger one; the pictures give it the words it needs most, and WordNet the others."""

    words: LettersConfig
    phrases: int = 160_000
    """How many different phrases there are."""
    wordnet: str = WORDNET
    """The folder of WordNet; '' = only words of the captions."""

    def prepare(self, pictures: Pictures) -> tuple[Part, Job]:
        """A fresh encoder, and its training job; the teacher reads all phrases first, which takes minutes."""
        torch.manual_seed(self.training.seed)
        encoder = Letters(self.words)
        said = phrases(pictures, lemmas(self.wordnet) if self.wordnet else [], self.phrases)
        vectors = taught(said, self.training.autocast)
        order = torch.randperm(len(said), generator=torch.Generator().manual_seed(0)).tolist()
        held, train = order[: min(self.training.holdout, len(said) // 10)], order[min(self.training.holdout, len(said) // 10) :]
        job = Distilling(
            encoder,
            [said[i] for i in train],
            vectors[train],
            [said[i] for i in held],
            vectors[held],
            autocast=self.training.autocast,
        )
        return Part(encoders={"prompt": encoder}, about=self.card()), job
