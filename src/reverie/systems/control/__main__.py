"""Makes the file that is shipped, from a finished run: half precision, with its licence and measured quality.

python -m reverie.systems.control runs/avatars-edges bench/results/control.csv
"""

import csv
import json
import sys
from pathlib import Path

import torch

from reverie.files import metadata
from reverie.systems.control.kept import SHIPPED, load_control, save_control
from reverie.systems.shipped import open_model
from reverie.systems.weights import CARD


def main(run: str, quality: str = "") -> None:
    """Writes the shipped file."""
    file, base, name = Path(run) / "model.safetensors", open_model("reverie-avatars"), Path(run).name
    about = json.loads(metadata(file)[CARD])["about"] | {
        "licence": "Apache-2.0; the pictures it learnt from keep the licences of their designers, see data/parts/AVATARS.md"
    }
    if quality:
        with Path(quality).open() as rows:
            about["quality"] = [row for row in csv.DictReader(rows) if row["control"] == name]
    save_control(load_control(file, base), SHIPPED[name], base, about, torch.float16)
    print(SHIPPED[name])


if __name__ == "__main__":
    main(*sys.argv[1:])
