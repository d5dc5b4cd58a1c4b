"""Measures a trained reader on pictures it has not seen, and writes the half-precision file that comes with the package.

python -m reverie.systems.readers RUN NAME [DATA]   (RUN: folder of `reverie train avatars-reader`; NAME: avatars, fashion, emoji;
                                                    DATA: the file of the emoji)
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from reverie.data.emoji_prompts import HELD_OUT
from reverie.data.fashion import fashion_mnist
from reverie.data.pictures import Pictures
from reverie.data.sets import open_pictures
from reverie.errors import UserError
from reverie.measure.agreement import shown
from reverie.systems.emoji.reader import ASKED
from reverie.systems.shipped import READER_FILES
from reverie.systems.system import Part
from reverie.systems.weights import load_any, save


def unseen(name: str, data: str = "", holdout: int = 1000) -> Pictures:
    """Pictures no reader was trained on: the held-out avatars, the test set of Fashion-MNIST, or the held-out emoji."""
    if name == "emoji":
        pictures = open_pictures("emoji", data, 64)
        labels = [a["label"] for a in pictures.attributes or ()]
        some = pictures.take([i for i, label in enumerate(labels) if label in HELD_OUT])
        return replace(some, attributes=tuple({**a, ASKED: a["label"]} for a in some.attributes or ()))
    if name == "fashion":
        return fashion_mnist("test").pad(32)
    return open_pictures("avatars", "", 64).split(holdout)[1]


def ship(run: Path, name: str, data: str = "") -> None:
    """Adds the measured accuracies to the reader's card, and writes it into the package."""
    part, pictures = load_any(run / "model.safetensors"), unseen(name, data)
    if not isinstance(part, Part) or part.reader is None:
        raise UserError(f"{run} is not a run of a reader: train one with `reverie train {name}-reader`")
    measured = shown(pictures.images, pictures.attributes or (), part.reader)
    accuracy = {"pictures": len(pictures)} | {head: round(measured.each[head], 4) for head in part.reader.values}
    about = {k: v for k, v in part.about.items() if k != "hash"} | {"accuracy": accuracy}
    save(replace(part, about=about), READER_FILES[name], torch.float16)
    print(json.dumps(accuracy))


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or sys.argv[2] not in READER_FILES:
        sys.exit("usage: python -m reverie.systems.readers RUN avatars|fashion|emoji [DATA]")
    try:
        ship(Path(sys.argv[1]), *sys.argv[2:])
    except UserError as error:
        sys.exit(f"reverie: {error}")
