"""Measures a trained reader on pictures it has not seen, and writes the half-precision file that comes with the package.

python -m reverie.systems.readers RUN NAME      (RUN: folder of `reverie train avatars-reader`; NAME: avatars or fashion)
"""

import json
import sys
from pathlib import Path

from reverie.data.fashion import fashion_mnist
from reverie.data.pictures import Pictures
from reverie.errors import UserError
from reverie.files import load_tensors, save_tensors
from reverie.measure.agreement import shown
from reverie.measure.reader import PARTS, load_reader
from reverie.systems.recipe import open_pictures


def unseen(name: str, holdout: int = 1000) -> Pictures:
    """Pictures no reader was trained on: the held-out avatars, or the test set of Fashion-MNIST."""
    if name == "fashion":
        return fashion_mnist("test").pad(32)
    return open_pictures("avatars", "", 64).split(holdout)[1]


def ship(run: Path, name: str) -> None:
    """Adds the measured accuracies to the reader's card, and writes it into the package."""
    reader, pictures = load_reader(run / "model.safetensors"), unseen(name)
    measured = shown(pictures.images, pictures.attributes or (), reader)
    accuracy = {head: round(measured.each[head], 4) for head in reader.values}
    tensors, metadata = load_tensors(run / "model.safetensors")
    card = metadata["reverie.card"]
    card["about"]["accuracy"] = {"pictures": len(pictures), **accuracy}
    half = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    save_tensors(PARTS / f"{name}.safetensors", half, {"reverie.card": card})
    print(json.dumps(card["about"]["accuracy"]))


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[2] not in ("avatars", "fashion"):
        sys.exit("usage: python -m reverie.systems.readers RUN avatars|fashion")
    try:
        ship(Path(sys.argv[1]), sys.argv[2])
    except UserError as error:
        sys.exit(f"reverie: {error}")
