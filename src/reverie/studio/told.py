"""What a picture tells of its making, as a job that makes it again; and as A1111 answers it."""

import io
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

from PIL import Image

from reverie.data.picture_file import check_size
from reverie.errors import UserError
from reverie.studio.strict import plain
from reverie.systems.shipped import SHIPPED
from reverie.tasks.metadata import LIMIT, read
from reverie.tasks.settings import Settings

LEFT_OUT = ("prompt", "count", "batch")


def said(data: bytes) -> dict[str, Any] | None:
    """{model, prompt, settings, loras, left}, of which left names what a job cannot repeat; None where it tells nothing.

    The model is named by its name alone, never by a path.
    """
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        file.write(data)
        file.flush()
        try:
            made = read(Path(file.name))
        except UserError:
            return None
    usual = Settings()
    own = {f.name: getattr(made.settings, f.name) for f in fields(Settings) if f.name not in LEFT_OUT}
    settings = {name: value for name, value in own.items() if value != getattr(usual, name)}
    model = made.model if made.model in SHIPPED else _stem(made.model)
    left = [str(task.get("name")) for task in made.tasks] + (["embeddings"] if made.embeddings else [])
    loras = [f"{_stem(name)}{weight}" for name, weight in map(_weighed, made.loras)]
    return plain({"model": model, "prompt": made.settings.prompt[0], "settings": settings, "loras": loras, "left": left})


def _stem(name: str) -> str:
    """As the library names it: of a path its end, without the suffix of a file, and with every other dot."""
    return Path(name).name.removesuffix(".safetensors")


def _weighed(given: str) -> tuple[str, str]:
    name, colon, weight = given.rpartition(":")
    return (name, f":{weight}") if colon and weight.replace(".", "").lstrip("-").isdecimal() else (given, "")


def texts(data: bytes) -> dict[str, str]:
    """The texts of a PNG, bounded; UserError where it is no picture."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            check_size(image, "the picture")
            image.load()
            found = getattr(image, "text", {})
    except UserError:
        raise
    except Exception as error:  # a decoder may raise anything on garbage
        raise UserError(f"the picture cannot be decoded ({type(error).__name__})") from None
    return {str(name)[:80]: str(text)[:LIMIT] for name, text in found.items()}
