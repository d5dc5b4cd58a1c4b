"""How the text encoder of reverie-emoji is trained: alone, by what a larger one makes of many phrases."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.data.phrases import LOOKS, WORDNET, atoms, lemmas, phrases
from reverie.data.pictures import Pictures
from reverie.encode import Letters
from reverie.encode.letters import FIRST
from reverie.encode.words import split
from reverie.nets.letters import LettersConfig
from reverie.nets.precision import inside
from reverie.systems.emoji.kept import kept
from reverie.systems.recipe import Preset
from reverie.systems.system import Part
from reverie.train.distilling import Distilling, MiniLM, Teacher, begin
from reverie.train.loop import Job


def taught(teacher: Teacher, said: Sequence[str], dtype: torch.dtype | None) -> Tensor:
    """The teacher's vectors (N, D) of these phrases, float16; kept in the cache for runs that go on."""

    def read() -> Tensor:
        print(f"reverie: the teacher reads {len(said)} phrases", file=sys.stderr)
        with inside(dtype, torch.device("cpu")):
            return teacher(said).half()

    return kept("vectors", "\n".join((type(teacher).__name__, str(dtype), *said)).encode(), read)


def vocabulary(pictures: Pictures, nouns: Sequence[str], teacher: Teacher, count: int) -> list[str]:
    """The words that get rows of their own: those of captions, the teacher's most common, and nouns that it cuts in two."""
    own = dict.fromkeys(w for part in (*atoms(pictures), *LOOKS) for w in split(part))
    ranks = {w: teacher.pieces(w) for noun in nouns for w in split(noun)}
    two = sorted((w for w in ranks if len(ranks[w]) == 2), key=lambda w: (max(ranks[w]), w))
    nouns_first = [w for w in ranks if len(ranks[w]) == 1]
    return list(dict.fromkeys((*own, *nouns_first, *teacher.common()[: count * 6 // 10], *two)))[:count]


@dataclass(frozen=True, kw_only=True)
class DistilledRecipe(Preset):
    """A text encoder that learns from a larger one; the pictures give it the words it needs most, and WordNet the others."""

    words: LettersConfig
    phrases: int = 80_000
    """How many different phrases there are."""
    wordnet: str = WORDNET
    """The folder of WordNet; '' = only words of the captions."""

    def prepare(self, pictures: Pictures) -> tuple[Part, Job]:
        """A fresh encoder, and its training job; the teacher reads all phrases first, which takes minutes."""
        teacher, dtype = MiniLM(), self.training.autocast
        nouns = lemmas(self.wordnet) if self.wordnet else []
        common = vocabulary(pictures, nouns, teacher, self.words.words - FIRST)
        torch.manual_seed(self.training.seed)
        encoder = Letters(common, self.words)
        begin(encoder, taught(teacher, common, dtype))
        said = phrases(pictures, nouns, common, self.phrases)
        vectors = taught(teacher, said, dtype)
        order = torch.randperm(len(said), generator=torch.Generator().manual_seed(0)).tolist()
        held, train = order[: min(self.training.holdout, len(said) // 10)], order[min(self.training.holdout, len(said) // 10) :]
        job = Distilling(
            encoder,
            [said[i] for i in train],
            vectors[train],
            [said[i] for i in held],
            vectors[held],
            autocast=dtype,
        )
        return Part(encoders={"prompt": encoder}, about=self.card()), job
