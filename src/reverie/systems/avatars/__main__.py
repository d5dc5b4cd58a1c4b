"""Makes the file that is shipped, from a finished run: half precision, with its name, licence and measured quality.

    python -m reverie.systems.avatars runs/avatars/model.safetensors quality.json
    python -m reverie.systems.avatars runs/avatars-fast/model.safetensors quality.json reverie-avatars-fast

quality.json is what `reverie evaluate runs/avatars --json` printed.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from reverie.systems.shipped import SHIPPED
from reverie.systems.weights import load, save


def main(model: str, quality: str = "", name: str = "reverie-avatars") -> None:
    """Writes the shipped file."""
    system = load(model)
    about = {k: v for k, v in system.about.items() if k != "hash"} | {
        "name": name,
        "licence": "Apache-2.0; the pictures it learnt from keep the licences of their designers, see data/parts/AVATARS.md",
    }
    if quality:
        about["quality"] = json.loads(Path(quality).read_text())
    save(replace(system, about=about), SHIPPED[name], torch.float16)
    print(SHIPPED[name])


if __name__ == "__main__":
    main(*sys.argv[1:])
