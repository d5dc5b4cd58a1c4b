"""Pictures of its own that a model draws before it learns, so as not to forget them (prior preservation, arXiv 2208.12242)."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from reverie.files import write_whole
from reverie.systems.system import System
from reverie.tasks.generate import generate


def prior(system: System, prompt: str, count: int, folder: Path, seed: int = 0) -> Iterator[Path]:
    """So many pictures of a prompt in a folder, each yielded once it is there; those that are there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        if not (path := folder / f"{k:04d}.png").exists():
            image = generate(system, prompt, seed=seed + k)[0]
            write_whole(path, partial(image.save, format="PNG"))
        yield path
