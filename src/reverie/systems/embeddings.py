"""Files of words that were learnt (textual inversion): everyone's, taught to the encoders of a system.

    {NAME: (n, D) or (D,)}, several names            diffusers; ours
    {"emb_params": (n, D)}                           kohya
    {"clip_l": (n, D), "clip_g": (n, E)}             Stable Diffusion XL and 3
    {"*": (n, D)}, within "string_to_param"          A1111's pickle, which is read in a process of its own where that is allowed

What a file is its keys tell. A word is called as the file says, or as it is asked for, or as the file is called.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from reverie.errors import UserError
from reverie.files import load_tensors, save_tensors
from reverie.systems import pickles, telling
from reverie.systems.opening import USUAL, Opening
from reverie.systems.system import System
from reverie.systems.weights import CARD, FORMAT, fingerprint

LOG = logging.getLogger("reverie")
PAIR = ("clip_l", "clip_g")
NAMELESS = ("emb_params", "*")


@dataclass(frozen=True)
class Embedding:
    """A word. vectors: {which encoder: (n, D)}, '' = the only one."""

    name: str
    vectors: Mapping[str, Tensor]


def readers(encoder: Any) -> dict[str, Any]:
    """The encoders that can learn words: alone '', or of several by the names that files have for them."""
    if hasattr(encoder, "learnt"):
        return {"": encoder}
    clips = list(getattr(encoder, "clips", ())) or [clip for clip in [getattr(encoder, "clip", None)] if clip is not None]
    return dict(zip(PAIR if len(clips) > 1 else ("",), clips, strict=False))


def read_embedding(path: str | Path, name: str = "", allow_pickle: bool = False) -> list[Embedding]:
    """The words in a file. UserError where it holds none, or what is no number."""
    place = Path(path).expanduser()
    if pickles.is_pickle(place):
        pickles.refuse_unless(allow_pickle, place)
        tensors, said = pickles.tensors(place), dict[str, Any]()
    else:
        tensors, said = load_tensors(place)
    tensors = {k: v[None] if v.ndim == 1 else v for k, v in tensors.items()}
    if not tensors or any(v.ndim != 2 or not v.is_floating_point() for v in tensors.values()):
        what = telling.part(tensors)
        raise UserError(f"{path} holds no words that were learnt; {what or f'it holds {len(tensors)} other tensors'}")
    if rotten := [k for k, v in tensors.items() if not bool(v.isfinite().all())]:
        raise UserError(f"{path}: {rotten[0]} holds NaN or infinity: the training diverged or the file is damaged")
    if set(tensors) <= set(PAIR):
        ours = said.get(CARD, {}).get("embedding") or [place.stem]  # which no key of a pair says
        return [Embedding(name or str(ours[0]), tensors)]
    if len(tensors) > 1 and name:
        raise UserError(
            f"{path} holds {len(tensors)} words ({', '.join(sorted(tensors)[:4])}), which have their own names: leave out {name}="
        )
    return [Embedding(name or (place.stem if key in NAMELESS else key), {"": value}) for key, value in tensors.items()]


def save_embedding(path: Path, words: Sequence[Embedding], base: Mapping[str, str], about: Mapping[str, Any]) -> None:
    """Writes them as diffusers does, or one of several encoders as a pair. base: "name" and "hash" of their model."""
    if len(words) > 1 and any(set(word.vectors) != {""} for word in words):
        raise UserError("of a model with several encoders a file holds one word: write one file of each")
    held = {part or word.name: value for word in words for part, value in word.vectors.items()}
    card = {"format": FORMAT, "embedding": [word.name for word in words], "base": dict(base), "about": dict(about)}
    save_tensors(path, {k: v.detach().float().contiguous() for k, v in held.items()}, {CARD: card})


def teach(system: System, word: Embedding, where: str = "") -> None:
    """The encoders of a system read the word from now on; UserError where it is of another model."""
    known, head = readers(system.prompt_encoder), f"{where}: " if where else ""
    if not known:
        raise UserError(f"{head}{system.name} has no encoder that could learn the word {word.name}")
    if set(word.vectors) != set(known):
        theirs, ours = (" and ".join(k or "a single encoder" for k in parts) for parts in (word.vectors, known))
        raise UserError(f"{head}{word.name} has vectors for {theirs}, and {system.name} reads by {ours}: it is of another model")
    for part, reader in known.items():
        given, own = word.vectors[part].shape[1], reader.learnt().width
        if given != own:
            raise UserError(
                f"{head}vectors of {word.name} are {given} wide, and those of {system.name} {own}: it is of another model"
            )
    for part, reader in known.items():
        reader.learnt().add(word.name, word.vectors[part])


def asked(text: str) -> tuple[str, str]:
    """The file and the name of "FILE" or "NAME=FILE"."""
    name, sign, place = text.partition("=")
    return (place, name) if sign and not Path(text).exists() else (text, "")


def given_embeddings(system: System, texts: Sequence[str], opening: Opening = USUAL) -> System:
    """The system, taught the words in files, each as "FILE" or "NAME=FILE"."""
    made = []
    for text in texts:
        place, name = asked(text)
        for word in read_embedding(place, name, opening.allow_pickle):
            teach(system, word, place)
            LOG.info("%s: '%s' is a word of %d vectors now", place, word.name, len(next(iter(word.vectors.values()))))
            made.append({"name": word.name, "hash": fingerprint(word.vectors), "given": text})
    return replace(system, about={**system.about, "embeddings": made})
