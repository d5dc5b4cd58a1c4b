"""Avatars: any number of labelled portraits, drawn with DiceBear; in four styles from attributes that we draw.

Attributes: `avatar_attributes`. Parts: `avatar_parts`. Captions: `avatar_words`. All other styles of DiceBear's collection are
drawn and captioned in its own words: `avatar_styles`. Picture k of a seed depends on nothing but (seed, k, styles): not on the
count, the chunk, or the machine.

Source: DiceBear 9.4.3 (MIT). Styles: Avataaars by Pablo Stanley ("free for personal and commercial use"), Micah by Micah
Lanier (CC BY 4.0), Open Peeps by Pablo Stanley (CC0 1.0), Pixel Art by DiceBear (CC0 1.0); retouched, see `avatar_parts`.
"""

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reverie.data import avatar_styles, npm
from reverie.data.avatar_attributes import STYLES, VALUES, draw
from reverie.data.avatar_parts import job, retouch
from reverie.data.avatar_styles import COLLECTION, About
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
    """(attributes, the job for the drawing program) of picture `index`; the styles take turns.

    Of a style without words of ours only the style is known beforehand: the program says what it drew.
    """
    rng, style = np.random.default_rng([seed, index, 64]), styles[index % len(styles)]
    if style not in STYLES:
        return {"style": style}, avatar_styles.job(style, rng)
    attributes = draw(rng, style)
    return attributes, job(attributes, rng)


def tell(rng: np.random.Generator) -> tuple[str, dict[str, tuple[str, ...]]]:
    """A caption of an avatar that nobody has drawn yet, and what it tells; never a held-out combination."""
    return caption_and_told(draw(rng), rng)


def _ask(jobs: Sequence[Mapping[str, Any]], modules: Path) -> list[dict[str, Any]]:
    """What the drawing program answers to each job."""
    script = Path(__file__).with_name("avatars.mjs")
    text = "\n".join(map(json.dumps, jobs))
    done = subprocess.run([npm.node(), str(script), str(modules)], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"the drawing program failed ({last}): delete {npm.cache()} and try again.")
    return [json.loads(line) for line in done.stdout.splitlines()]


def _ready(count: int, size: int, seed: int, styles: Sequence[str]) -> tuple[Path, dict[str, About]]:
    """(node modules, what DiceBear says of the styles that we have no words for), if this can be drawn."""
    if count < 1 or size < 8 or seed < 0:
        raise UserError(f"cannot draw {count} avatars of {size} pixels with seed {seed}: count >= 1, size >= 8, seed >= 0.")
    for style in styles:
        if style not in COLLECTION:
            raise UserError(f"there is no avatar style {style!r}.{nearest(style, COLLECTION)}")
    modules = npm.modules(PACKAGES)
    others = [style for style in dict.fromkeys(styles) if style not in STYLES]
    answers = _ask([{"style": style} for style in others], modules) if others else []
    return modules, dict(zip(others, answers, strict=True))


def _chunks(
    count: int, size: int, seed: int, styles: Sequence[str], modules: Path, progress: Progress | None
) -> Iterator[tuple[list[dict[str, str]], np.ndarray]]:
    for start in range(0, count, _CHUNK):
        stop = min(start + _CHUNK, count)
        drawn, svgs = [], []
        planned = [plan(seed, k, styles) for k in range(start, stop)]
        for (attributes, _), answer in zip(planned, _ask([asked for _, asked in planned], modules), strict=True):
            ours = attributes["style"] in STYLES
            drawn.append(attributes if ours else {k: str(v) for k, v in answer["extra"].items()} | attributes)
            svgs.append(retouch(answer["svg"], attributes) if ours else answer["svg"])
        yield drawn, render(svgs, size)
        if progress:
            progress(stop, count)


def _owners(styles: Sequence[str], others: Mapping[str, About]) -> tuple[str, str]:
    """(licence, credit) of the drawings."""
    ours = set(styles) & set(STYLES)
    licences = [LICENCE] if ours else []
    licences += [avatar_styles.licence(style, about) for style, about in others.items()]
    designers = "; ".join(dict.fromkeys(map(avatar_styles.credit, others.values())))
    credits = [CREDIT] if ours else []
    credits += [f"Drawn with DiceBear (dicebear.com): {designers}"] if others else []
    return "; ".join(licences), ". ".join(credits)


def _told(others: Mapping[str, About]) -> dict[str, Any]:
    return {style: about["defaults"] for style, about in others.items()}


def _pictures(packed: Packed, told: Mapping[str, Any]) -> Pictures:
    """told: by style that we have no words for, what its options are."""
    attributes = packed.attributes or ()
    found = {a["style"] for a in attributes}
    classes = STYLES if found <= set(STYLES) else tuple(sorted(found))

    def say(i: int, rng: np.random.Generator) -> str:
        a = attributes[i]
        return caption(a, rng) if a["style"] in STYLES else avatar_styles.caption(a, told.get(a["style"], {}), rng)

    labels = np.array([classes.index(a["style"]) for a in attributes], np.int64)
    return Pictures(packed.name, packed.images, packed.licence, packed.credit, labels, classes, attributes, say)


def generate(
    count: int, size: int = 64, seed: int = 0, styles: Sequence[str] = STYLES, progress: Progress | None = None
) -> Pictures:
    """`count` avatars of `size` x `size` pixels; `progress(done, count)` is called from time to time.

    styles: any of `COLLECTION`, the styles of `@dicebear/collection`.

    Needs node and npm (which fetches DiceBear once) and resvg-py; raises UserError that says which is missing.
    """
    modules, others = _ready(count, size, seed, styles)
    drawn = list(_chunks(count, size, seed, styles, modules, progress))
    images = np.concatenate([images for _, images in drawn])
    attributes = tuple(a for some, _ in drawn for a in some)
    return _pictures(Packed("avatars", *_owners(styles, others), images, attributes), _told(others))


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
    modules, others = _ready(count, size, seed, styles)
    attributes: list[dict[str, str]] = []
    webp: list[bytes] = []
    for some, images in _chunks(count, size, seed, styles, modules, progress):
        attributes += some
        webp += [encode(image, method) for image in images]
    none = np.zeros((0, 3, size, size), np.uint8)
    extra = {"seed": seed, "styles": list(styles)} | ({"told": _told(others)} if others else {})
    values = _values(attributes) if others else VALUES
    write(path, Packed("avatars", *_owners(styles, others), none, tuple(attributes), extra=extra, values=values), webp)


def _values(attributes: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Name -> all that it is, of attributes that we did not draw."""
    found: dict[str, set[str]] = {}
    for a in attributes:
        for name, value in a.items():
            found.setdefault(name, set()).add(value)
    return {name: sorted(some) for name, some in found.items()}


def avatars(path: str | Path | None = None) -> Pictures:
    """The avatars that come with the package, or those of a file written by `generate_file`.

    Labels are the styles. Raises UserError where the file is missing, cut short, or of something else.
    """
    packed = read(path or PART)
    if packed.attributes is None or not all(a.get("style") in COLLECTION for a in packed.attributes[:1]):
        raise UserError(f"{path} holds pictures, but not avatars: make one with `reverie data avatars`.")
    return _pictures(packed, (packed.extra or {}).get("told", {}))
