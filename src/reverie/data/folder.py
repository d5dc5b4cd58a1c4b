"""Any folder of pictures, with or without words.

What says what a picture shows, looked for in this order:

1. `metadata.jsonl` in the folder: one JSON object a line, {"file_name": "a.png", "text": "a caption"};
2. a `.txt` file beside a picture, with the same name: its words are the caption (where there is none, a `.caption` file);
3. sub-folders with pictures in them, and beside them no picture that can be used: the name of the sub-folder is the class.

A file that cannot be used is skipped and named in `Pictures.problems`, one line each, and the rest is read:

- a picture that cannot be decoded, or is cut short; a file with the name of a picture and nothing in it;
- a picture of more than `max_pixels`, judged by its header before a pixel is decoded (an image bomb);
- in a captioned folder: a picture without a caption, an empty caption, a caption that is not UTF-8;
- a sub-folder with pictures where pictures that can be used lie beside it too;
- a caption without its picture; a line of `metadata.jsonl` that is not such an object, or that leads out of the folder.

`NAME.mask.png` beside a picture NAME is its mask (`masks.py`), and no picture.

No folder, no picture that can be used, or a size below 1 is refused with UserError. Pictures are turned upright by their
EXIF orientation, put on white where they are transparent, brought to 8-bit RGB (the first frame, if they are animated),
scaled so that the shorter side is `size`, and cut to the middle `size` x `size`.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from reverie.data.picture_file import MAX_PIXELS, read_picture
from reverie.data.pictures import Pictures
from reverie.errors import UserError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
CAPTIONS = (".txt", ".caption")
MASK = ".mask"
_MAX_CAPTION = 100_000  # bytes


@dataclass
class Found:
    """Paths of pictures, with their captions or classes where there are some."""

    paths: list[Path] = field(default_factory=list)
    texts: list[str] | None = None
    classes: list[str] | None = None
    problems: list[str] = field(default_factory=list)


def open_picture(path: str | Path, size: int, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """(3, size, size) uint8. Raises UserError, naming the file, where it cannot be used (see above)."""
    try:
        image = read_picture(path, max_pixels)
    except UserError as error:
        raise UserError(f"{error}, skipped") from None
    return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)).transpose(2, 0, 1)


def is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")


def pictures_in(folder: Path) -> list[Path]:
    """The files that lie in it and are named as pictures, without the masks beside them."""
    paths = sorted(p for p in folder.iterdir() if is_picture(p))
    masks = {f"{p.stem}{MASK}" for p in paths}
    return [p for p in paths if p.stem not in masks]


def _lines(folder: Path, problems: list[str], spare: str) -> Iterator[tuple[Path, str]]:
    name = folder / "metadata.jsonl"
    for number, line in enumerate(name.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            file_name, text = row["file_name"], row["text"]
            path = folder / file_name
            text = (text.strip() if isinstance(text, str) else "") or spare
            inside = path.resolve().is_relative_to(folder.resolve())
        except (ValueError, KeyError, TypeError, OSError, RecursionError):
            problems.append(f"{name}:{number}: not an object with file_name and text, skipped")
            continue
        if not inside:
            problems.append(f"{name}:{number}: {file_name} leads out of the folder, skipped")
        elif not os.path.isfile(path):  # Path.is_file raises where the name is longer than the disk allows
            problems.append(f"{name}:{number}: caption without its picture {file_name[:255]}, skipped")
        elif not text:
            problems.append(f"{name}:{number}: empty caption, {file_name} skipped")
        else:
            yield path, text


def _from_metadata(folder: Path, spare: str) -> Found:
    found = Found(texts=[])
    for path, text in _lines(folder, found.problems, spare):
        found.paths.append(path)
        found.texts.append(text)  # type: ignore[union-attr]
    told = set(found.paths)
    named = " ".join(found.problems)  # what was already complained of is not named twice
    for path in pictures_in(folder):
        if path not in told and spare:
            found.paths.append(path)
            found.texts.append(spare)  # type: ignore[union-attr]
        elif path not in told and path.name not in named:
            found.problems.append(f"{path}: picture without a caption in metadata.jsonl, skipped")
    return found


def _caption_of(path: Path, suffix: str, spare: str) -> str:
    """The caption beside a picture, or `spare`. Raises UserError where there is none to use."""
    text = path.with_suffix(suffix)
    if not text.is_file():
        if spare:
            return spare
        raise UserError(f"{path}: picture without a caption, skipped")
    try:
        with text.open("rb") as file:
            words = " ".join(file.read(_MAX_CAPTION).decode("utf-8-sig").split())
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{text}: caption is not UTF-8 text, {path.name} skipped") from None
    if not words and not spare:
        raise UserError(f"{text}: empty caption, {path.name} skipped")
    return words or spare


def _from_texts(folder: Path, paths: list[Path], suffix: str, spare: str) -> Found:
    found = Found(texts=[])
    for path in paths:
        try:
            words = _caption_of(path, suffix, spare)
        except UserError as problem:
            found.problems.append(str(problem))
            continue
        found.paths.append(path)
        found.texts.append(words)  # type: ignore[union-attr]
    stems = {p.stem for p in paths}
    for text in sorted(p for p in folder.iterdir() if p.suffix == suffix):
        if text.stem not in stems:
            found.problems.append(f"{text}: caption without its picture, skipped")
    return found


def folders_in(folder: Path) -> list[Path]:
    """The folders in it that are not hidden."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _from_classes(folder: Path) -> Found:
    found = Found(classes=[])
    for inner in folders_in(folder):
        paths = pictures_in(inner)
        if not paths:
            found.problems.append(f"{inner}: class folder without pictures, skipped")
        found.paths += paths
        found.classes += [inner.name] * len(paths)  # type: ignore[operator]
    return found


def _first_good(paths: list[Path], max_pixels: int) -> tuple[Path | None, list[str]]:
    """The first picture that can be used, and what is wrong with those before it."""
    problems: list[str] = []
    for path in paths:
        try:
            open_picture(path, 1, max_pixels)
            return path, problems
        except UserError as problem:
            problems.append(str(problem))
    return None, problems


def _left_out(counts: dict[Path, int], first: Path, others: int) -> Iterator[str]:
    """Folders that are no classes because of a picture and others beside them, one line each."""
    beside = f"{first.name} and {others} more beside it" if others else first.name
    for inner, count in counts.items():
        yield (
            f"{inner}: {count} of its pictures skipped: folders are classes only where no picture lies beside them; "
            f"move {beside} into one, or elsewhere"
        )


def look(folder: Path, max_pixels: int = MAX_PIXELS, suffix: str = "", spare: str = "") -> Found:
    """The pictures of a folder and what is said of them; none is decoded yet.

    suffix: of the files with captions; '' = the first of `CAPTIONS` that lies beside a picture. spare: what is said of a picture
    that has no caption, or an empty one.
    """
    try:
        if (folder / "metadata.jsonl").is_file():
            return _from_metadata(folder, spare)
        paths = pictures_in(folder)
        counts = {inner: count for inner in folders_in(folder) if (count := len(pictures_in(inner)))}
        first, strays = _first_good(paths, max_pixels) if counts else (None, [])
        if not paths or (counts and first is None):  # a broken file beside class folders is no reason to leave them out
            found = _from_classes(folder)
            found.problems += strays
            return found
        beside = [s for s in ((suffix,) if suffix else CAPTIONS) if any(p.with_suffix(s).is_file() for p in paths)]
        found = _from_texts(folder, paths, beside[0], spare) if beside else Found(paths=paths)
        if not beside and spare:
            found.texts = [spare] * len(paths)
        if first:
            found.problems += _left_out(counts, first, len(paths) - 1)
        return found
    except OSError as error:
        raise UserError(f"cannot read {folder} ({error.strerror}): check that it is yours to read.") from None


def folder(path: str | Path, size: int = 64, max_pixels: int = MAX_PIXELS) -> Pictures:
    """The pictures of a folder as (N, 3, size, size); `problems` names what was skipped.

    Raises UserError where no folder is named, there is no such folder, or nothing in it can be used.
    """
    if not str(path):  # which Path would take for the current folder
        raise UserError("no folder of pictures is named: give one, with --data DIR to train or --path DIR to look at it.")
    path = Path(path)
    if size < 1:
        raise UserError(f"cannot scale pictures to {size} pixels: choose a size of 1 or more.")
    if not os.path.isdir(path):  # Path.is_dir raises in a folder that is not ours to read
        raise UserError(f"there is no folder {path}: name a folder of pictures.")
    found = look(path, max_pixels)
    images, kept = [], []
    for row, file in enumerate(found.paths):
        try:
            images.append(open_picture(file, size, max_pixels))
            kept.append(row)
        except UserError as problem:
            found.problems.append(str(problem))
    if not images:
        first = f" The first of {len(found.problems)} problems: {found.problems[0]}." if found.problems else ""
        raise UserError(f"no picture in {path} can be used: put PNG, JPEG or WebP files there.{first}")
    texts = found.texts and [found.texts[k] for k in kept]
    names = found.classes and [found.classes[k] for k in kept]
    classes = tuple(sorted(set(names or ())))
    words = texts or names
    return Pictures(
        path.resolve().name,
        np.stack(images),
        "as its owner says",
        labels=np.array([classes.index(n) for n in names], np.int64) if names else None,
        classes=classes,
        caption=(lambda i, rng: words[i]) if words else None,
        problems=tuple(found.problems),
    )
