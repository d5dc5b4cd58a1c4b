"""Guides that name files: what is in them is opened here, `opened("autoguide(weak='runs/fashion/model-0.2.safetensors')")`."""

import os
from dataclasses import replace

from reverie.card import Card, parse, rebuild
from reverie.denoiser import Cond
from reverie.encode.asked import read
from reverie.errors import UserError
from reverie.files import metadata
from reverie.guide import GUIDES, Asked, Guide
from reverie.guide.witness import Witness
from reverie.guide.worse import Hearing
from reverie.systems.adm import classifier
from reverie.systems.opening import USUAL, Opening
from reverie.systems.pickles import is_pickle
from reverie.systems.shipped import open_model, place
from reverie.systems.system import Part
from reverie.systems.weights import CARD, load_any


def opened(asked: Card | str, opening: Opening = USUAL) -> Guide:
    """The guide of a card, or of a call as it is written; UserError where its file cannot be opened, or holds something else."""
    guide: Guide = rebuild(parse(asked) if isinstance(asked, str) else asked, GUIDES, "guide")
    if guide.complete is None:
        return guide
    found = hearing(guide.lacks, opening) if guide.wants is Hearing else witness(guide.lacks, opening)
    return replace(guide.complete(found), card=guide.card)


def hearing(name: str, opening: Opening = USUAL) -> Hearing:
    """A model with its own encoder, shipped, of ours, or published."""
    system = open_model(name, opening)

    def encode(asked: Asked) -> Cond | None:
        if asked.hear is not None:
            return asked.hear(system)
        encoder = system.prompt_encoder
        return None if encoder is None else read(encoder, asked.said, system.defaults.size, plain=True)

    return Hearing(system.denoiser, encode)


def witness(name: str, opening: Opening = USUAL) -> Witness:
    """A reader of noised points: of `reverie train fashion-classifier` or `avatars-scorer`, or ADM's classifier from its file."""
    path = place(name)
    if is_pickle(path) or (os.path.isfile(path) and CARD not in metadata(path)):
        return classifier.opened(path, opening)
    part = load_any(path)
    reader = part.reader if isinstance(part, Part) else None
    if not isinstance(reader, Witness):
        raise UserError(
            f"{path} judges no noised points: make what does with `reverie train fashion-classifier` or `avatars-scorer`"
        )
    return reader
