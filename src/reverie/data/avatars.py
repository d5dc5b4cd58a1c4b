"""Avatars: any number of labelled portraits in four styles, drawn with DiceBear from attributes that we draw.

Attributes: `avatar_attributes`. Parts: `avatar_parts`. Captions: `avatar_words`. Picture k of a seed depends on nothing but
(seed, k, styles): not on the count, the chunk, or the machine.

Source: DiceBear 9.4.3 (MIT). Styles: Avataaars by Pablo Stanley ("free for personal and commercial use"), Micah by Micah
Lanier (CC BY 4.0), Open Peeps by Pablo Stanley (CC0 1.0), Pixel Art by DiceBear (CC0 1.0); retouched, see `avatar_parts`.
"""

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reverie.data import npm
from reverie.data.avatar_attributes import STYLES, VALUES, draw
from reverie.data.avatar_parts import job, retouch
from reverie.data.avatar_words import caption, caption_and_told
from reverie.data.packed import Packed, encode, read, write
from reverie.data.pictures import Pictures
from reverie.data.render import render
from reverie.errors import UserError, nearest
from reverie.files import check_place

PACKAGES = ("@dicebear/core@9.4.3", "@dicebear/collection@9.4.3")
PART = Path(__file__).parent / "parts" / "avatars.safetensors"
LICENCE = "avataaars: free for personal and commercial use; micah: CC BY 4.0; open-peeps: CC0 1.0; pixel-art: CC0 1.0"
CREDIT = (
    "Drawn with DiceBear (dicebear.com), changed: Avataaars and Open Peeps by Pablo Stanley, "
    "Micah by Micah Lanier, Pixel Art by DiceBear"
)
_CHUNK = 1000

Progress = Callable[[int, int], object]


def plan(seed: int, index: int, styles: Sequence[str] = STYLES) -> tuple[dict[str, str], dict[str, Any]]:
    """(attributes, the job for the drawing program) of picture `index`; the styles take turns."""
    rng = np.random.default_rng([seed, index, 64])
    attributes = draw(rng, styles[index % len(styles)])
    return attributes, job(attributes, rng)


def tell(rng: np.random.Generator) -> tuple[str, dict[str, tuple[str, ...]]]:
    """A caption of an avatar that nobody has drawn yet, and what it tells; never a held-out combination."""
    return caption_and_told(draw(rng), rng)


def _svgs(jobs: list[dict[str, Any]], modules: Path) -> list[str]:
    script = Path(__file__).with_name("avatars.mjs")
    text = "\n".join(map(json.dumps, jobs))
    done = subprocess.run([npm.node(), str(script), str(modules)], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"the drawing program failed ({last}): delete {npm.cache()} and try again.")
    return [json.loads(line) for line in done.stdout.splitlines()]


def _chunks(
    count: int, size: int, seed: int, styles: Sequence[str], progress: Progress | None
) -> Iterator[tuple[list[dict[str, str]], np.ndarray]]:
    if count < 1 or size < 8 or seed < 0:
        raise UserError(f"cannot draw {count} avatars of {size} pixels with seed {seed}: count >= 1, size >= 8, seed >= 0.")
    for style in styles:
        if style not in STYLES:
            raise UserError(f"there is no avatar style {style!r}.{nearest(style, STYLES)}")
    modules = npm.modules(PACKAGES)
    for start in range(0, count, _CHUNK):
        stop = min(start + _CHUNK, count)
        attributes, jobs = zip(*(plan(seed, k, styles) for k in range(start, stop)), strict=True)
        svgs = map(retouch, _svgs(list(jobs), modules), attributes)
        yield list(attributes), render(svgs, size)
        if progress:
            progress(stop, count)


def _pictures(name: str, images: np.ndarray, attributes: tuple[Any, ...], licence: str, credit: str) -> Pictures:
    return Pictures(
        name,
        images,
        licence,
        credit,
        labels=np.array([STYLES.index(a["style"]) for a in attributes], np.int64),
        classes=STYLES,
        attributes=attributes,
        caption=lambda i, rng: caption(attributes[i], rng),
    )


def generate(
    count: int, size: int = 64, seed: int = 0, styles: Sequence[str] = STYLES, progress: Progress | None = None
) -> Pictures:
    """`count` avatars of `size` x `size` pixels; `progress(done, count)` is called from time to time.

    Needs node and npm (which fetches DiceBear once) and resvg-py; raises UserError that says which is missing.
    """
    drawn = list(_chunks(count, size, seed, styles, progress))
    images = np.concatenate([images for _, images in drawn])
    return _pictures("avatars", images, tuple(a for some, _ in drawn for a in some), LICENCE, CREDIT)


def generate_file(
    path: str | Path,
    count: int,
    size: int = 64,
    seed: int = 0,
    styles: Sequence[str] = STYLES,
    progress: Progress | None = None,
    method: int = 4,
) -> None:
    """As `generate`, but into a file that `avatars` reads; the pictures are kept in memory only as WebP.

    method: effort of the WebP coder, 0 to 6; it changes the size of the file, never the pictures.
    A place that cannot be written is refused before anything is drawn.
    """
    check_place(Path(path))
    attributes: list[dict[str, str]] = []
    webp: list[bytes] = []
    for some, images in _chunks(count, size, seed, styles, progress):
        attributes += some
        webp += [encode(image, method) for image in images]
    none = np.zeros((0, 3, size, size), np.uint8)
    extra = {"seed": seed, "styles": list(styles)}
    write(path, Packed("avatars", LICENCE, CREDIT, none, tuple(attributes), extra=extra, values=VALUES), webp)


def avatars(path: str | Path | None = None) -> Pictures:
    """The avatars that come with the package, or those of a file written by `generate_file`.

    Labels are the styles. Raises UserError where the file is missing, cut short, or of something else.
    """
    packed = read(path or PART)
    if packed.attributes is None or not all(set(a.values()) & set(STYLES) for a in packed.attributes[:1]):
        raise UserError(f"{path} holds pictures, but not avatars: make one with `reverie data avatars`.")
    return _pictures(packed.name, packed.images, packed.attributes, packed.licence, packed.credit)
