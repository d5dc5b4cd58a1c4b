"""The studio's folder: what is in it, and that nothing outside it can be named.

FOLDER/models, loras, controls    what a person puts there: safetensors files, folders in diffusers' layout
FOLDER/albums/NAME/               pictures that are to be learnt, with captions as .txt beside them
FOLDER/uploads/HASH.png           pictures that were sent, as we wrote them again
FOLDER/pictures/ID-K.png          what was made
FOLDER/results/ID/NAME            what jobs made that is no picture of the gallery: steps, comparisons, curves
FOLDER/jobs.db, work/ID/          the queue, and steps of pictures that are not done
"""

import hashlib
import io
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from reverie.data.folder import is_picture
from reverie.data.picture_file import MAX_PIXELS, decoded
from reverie.errors import UserError, nearest
from reverie.files import write_whole
from reverie.studio.queue import Unknown

HASH = re.compile("[0-9a-f]{64}")
JOB = re.compile("[0-9a-f]{32}")
MADE = re.compile(r"[0-9a-f]{32}-\d{1,6}")
ALBUM = re.compile(r"\w[\w -]{0,63}")
RESULT = re.compile(r"[a-z0-9][a-z0-9-]{0,80}\.(png|json|csv)")
HEAVIEST = 64_000_000
"""Bytes of a picture that is sent."""


class Library:
    """`folder` and what lies in it, which is made where it is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder).expanduser().resolve()
        for name in ("models", "loras", "controls", "albums", "uploads", "pictures", "results", "work"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def keep(self, data: bytes) -> str:
        """The name of a picture that was sent: it is read, and written again as PNG without all that was not picture.

        UserError where it is no picture that Pillow reads, or too large.
        """
        if len(data) > HEAVIEST:
            raise UserError(f"the picture has {len(data)} bytes; at most {HEAVIEST} are taken: make it smaller")
        name = hashlib.sha256(data).hexdigest()
        image = decoded(io.BytesIO(data), "the picture", MAX_PIXELS)
        try:
            write_whole(self.folder / "uploads" / f"{name}.png", lambda part: image.save(part, "PNG"))
        except UserError as error:
            raise UserError(self.unplaced(str(error))) from None
        return name

    def unplaced(self, text: str) -> str:
        """What is said of files of the library, without where it lies on this machine."""
        return text.replace(f"{self.folder}{os.sep}", "").replace(str(self.folder), "the folder")

    def picture(self, name: Any) -> Path:
        """The file of a picture that was sent, by its name, or that was made, as ID-K."""
        if isinstance(name, str):
            for folder, form in (("uploads", HASH), ("pictures", MADE)):
                if form.fullmatch(name) and (path := self.folder / folder / f"{name}.png").is_file():
                    return path
        raise UserError(f"there is no picture {str(name)!r:.80}: send it first, and use the name that comes back")

    def model(self, name: Any) -> str:
        """What `open_model` takes: a shipped model's own name, or the path of one in the library."""
        from reverie.systems.shipped import SHIPPED  # which needs torch, and the server is to be there before

        return name if isinstance(name, str) and name in SHIPPED else self._named("models", name, SHIPPED)

    def lora(self, name: Any) -> str:
        """A LoRA of the library with its weight, as NAME or NAME:0.8."""
        stem, _, weight = str(name).rpartition(":")
        if not stem or not re.fullmatch(r"-?\d+(\.\d+)?", weight):
            return self._named("loras", name)
        return f"{self._named('loras', stem)}:{weight}"

    def control(self, name: Any) -> str:
        """A control of the library, or one that ships."""
        from reverie.systems.control.kept import SHIPPED  # likewise

        return name if isinstance(name, str) and name in SHIPPED else self._named("controls", name, SHIPPED)

    def albums(self) -> dict[str, int]:
        """Names of the sets of pictures there are to learn from, and how many pictures lie in each."""
        found = [Path(entry) for entry in os.scandir(self.folder / "albums") if entry.is_dir()]
        return {path.name: sum(map(is_picture, path.rglob("*"))) for path in sorted(found)}

    def album(self, name: Any) -> Path:
        """The folder of one of them."""
        there = self.albums()
        if not isinstance(name, str) or name not in there:
            raise UserError(f"there is no album {str(name)!r:.80}.{nearest(str(name)[:200], there)}")
        return self.folder / "albums" / name

    def collect(self, name: str, pictures: Iterable[tuple[str, str]]) -> Path:
        """Puts pictures that were sent, each with its caption ('' = none), into an album, which is made where it is missing."""
        if not ALBUM.fullmatch(name):
            raise UserError(f"an album cannot be called {name!r:.80}: take letters, digits, spaces, - and _, at most 64")
        files = [(self.picture(picture), caption) for picture, caption in pictures]
        folder = self.folder / "albums" / name
        folder.mkdir(exist_ok=True)
        for file, caption in files:
            write_whole(folder / file.name, lambda part, file=file: shutil.copyfile(file, part))  # type: ignore[misc]
            if caption:
                write_whole(folder / f"{file.stem}.txt", lambda part, caption=caption: part.write_text(caption))  # type: ignore[misc]
        return folder

    def preview(self, job: str, index: int) -> bytes:
        """What a job that runs shows of one of its pictures, as PNG: it is gone at any moment."""
        try:
            if JOB.fullmatch(job):
                return (self.folder / "work" / job / f"{index:d}.png").read_bytes()
        except OSError:
            pass
        raise Unknown(f"job {job!r:.80} shows no picture {index} now")

    def result(self, job: str, name: str) -> Path:
        """What a job made beside pictures."""
        path = self.folder / "results" / job / name
        if not JOB.fullmatch(job) or not RESULT.fullmatch(name) or not path.is_file():
            raise Unknown(f"job {job!r:.80} made no {name!r:.80}")
        return path

    def made(self, before: str = "", limit: int = 60) -> list[str]:
        """Names of the pictures that were made, the newest first; before: one whose elders are wanted."""
        found = [entry.name for entry in os.scandir(self.folder / "pictures") if entry.name.endswith(".png")]
        names = [name for name in (entry.removesuffix(".png") for entry in found) if MADE.fullmatch(name)]
        names.sort(key=lambda name: (_changed(self.folder / "pictures" / f"{name}.png"), name), reverse=True)
        first = names.index(before) + 1 if before in names else 0
        return names[first : first + limit]

    def names(self, what: str) -> list[str]:
        """What lies in one of the folders: names of files without their suffix, and of folders; none that is no UTF-8."""
        found = [e for e in os.scandir(self.folder / what) if e.is_dir() or (e.name.endswith(".safetensors") and e.is_file())]
        names = {entry.name.removesuffix(".safetensors") for entry in found}
        return sorted(name for name in names if name and not any("\ud800" <= c <= "\udfff" for c in name))

    def _named(self, what: str, name: Any, others: Any = ()) -> str:
        """The path of a thing by its name, which must be among those that are there: what is asked for is never made a path."""
        there = self.names(what)
        if not isinstance(name, str) or name not in there:
            kind = what.removesuffix("s")
            raise UserError(f"there is no {kind} {str(name)!r:.80}.{nearest(str(name)[:200], [*others, *there])}")
        path = self.folder / what / f"{name}.safetensors"
        return str(path if path.is_file() else self.folder / what / name)


def _changed(path: Path) -> int:
    """When a file was written, in nanoseconds; 0 where it is gone meanwhile."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
