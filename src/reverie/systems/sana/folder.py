"""Sana and Sana 1.5, from folders in diffusers' layout and back.

The instruction that Sana's authors put before every prompt is part of no folder: the text of its file `instruction.txt` is used.
"""

import logging
from pathlib import Path
from typing import Any

from reverie.codec import Latent
from reverie.encode.gemma import Gemma
from reverie.files import write_whole
from reverie.systems import schedulers
from reverie.systems.folders import Folder, Saved
from reverie.systems.sana import dcae, transformer
from reverie.systems.system import Sampling, System

PIPELINES = ("SanaPipeline", "SanaPAGPipeline")
INSTRUCTION = "instruction.txt"
SIDE = 1024
LOG = logging.getLogger("reverie")


def open_folder(folder: Folder) -> System:
    """A system from the folder; UserError where a part is missing, damaged or of another kind."""
    net, codec = folder.net("transformer", transformer.KIND), folder.codec("vae", dcae.KIND)
    place = folder.path / INSTRUCTION
    instruction = place.read_text(encoding="utf-8") if place.is_file() else ""
    if not instruction:
        LOG.info("%s is not there: prompts are read without the instruction that Sana's authors put before them", place)
    prompt = Gemma(*folder.reader("Gemma2Model", "AutoTokenizer"), instruction=instruction)
    side = codec.factor * int(folder.json("transformer/config.json").get("sample_size") or SIDE // codec.factor)
    return System(
        denoiser=schedulers.denoiser(net, folder.scheduler),
        codec=codec,
        encoders={"prompt": prompt},
        defaults=sampling(schedulers.grid(folder.scheduler, "karras()"), side),
    )


def sampling(grid: str, side: int) -> Sampling:
    """How all of them are sampled by their authors."""
    return Sampling(steps=20, guidance=4.5, grid=grid, size=(side, side))


def holds(system: System) -> bool:
    """Whether a system can be written as a folder by this module."""
    return isinstance(system.encoders.get("prompt"), Gemma) and isinstance(system.codec, Latent)


def write_folder(system: System, folder: Path) -> None:
    """The system as diffusers reads it."""
    prompt = system.encoders["prompt"]
    assert isinstance(prompt, Gemma) and isinstance(system.codec, Latent)
    saved = Saved(folder, "SanaPipeline", system)
    more: dict[str, Any] = {"sample_size": system.defaults.size[0] // system.codec.factor}
    saved.net("transformer", system.denoiser.net, transformer.KIND, **more)
    saved.codec("vae", system.codec, dcae.KIND)
    saved.encoder(prompt)
    if prompt.instruction:
        write_whole(folder / INSTRUCTION, lambda part: part.write_text(prompt.instruction, encoding="utf-8"))
    saved.close()
