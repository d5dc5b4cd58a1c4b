"""Emoji: about 9,000 captioned drawings in five styles (18,000 with skin tones), at any resolution.

Pictures: Noto (Apache-2.0), Fluent flat and Fluent 3D (MIT), Twemoji (CC BY 4.0), OpenMoji (CC BY-SA 4.0), from their npm
packages. Words: emojibase-data (MIT): label, tags, group, skin tone; emojilib (MIT): more keywords. The packages are installed
on demand (see `npm`); the art is not redistributed here.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reverie.data import npm
from reverie.data.packed import Packed, encode, read, write
from reverie.data.pictures import Pictures
from reverie.data.render import on_white, render
from reverie.errors import UserError, nearest
from reverie.files import check_place

Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class _Style:
    package: str
    licence: str
    credit: str


STYLES: Mapping[str, _Style] = {
    "noto": _Style("@iconify-json/noto@1.2.9", "Apache-2.0", "Noto Emoji by Google"),
    "fluent-flat": _Style("@iconify-json/fluent-emoji-flat@1.2.6", "MIT", "Fluent Emoji by Microsoft"),
    "fluent-3d": _Style("@lobehub/fluent-emoji-3d@1.1.0", "MIT", "Fluent Emoji 3D by Microsoft, packaged by LobeHub"),
    "twemoji": _Style("@iconify-json/twemoji@1.2.5", "CC-BY-4.0", "Twemoji by Twitter and contributors"),
    "openmoji": _Style("@iconify-json/openmoji@1.2.29", "CC-BY-SA-4.0", "OpenMoji, openmoji.org"),
}
PERMISSIVE = ("noto", "fluent-flat", "fluent-3d")
_WORDS = ("emojibase-data@17.0.0", "emojilib@4.0.3")


@dataclass(frozen=True)
class _Glyph:
    """What is known of one emoji; `code` is its code points, lower-case, joined by "-", without fe0f."""

    code: str
    label: str
    group: str
    tags: tuple[str, ...]


def _code(text: str) -> str:
    return "-".join(part for part in text.lower().split("-") if part != "fe0f")


def _json(modules: Path, name: str) -> Any:
    try:
        return json.loads((modules / name).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{modules / name} cannot be read ({error}): delete {npm.cache()} and try again.") from None


def _glyphs(modules: Path, tones: bool) -> dict[str, _Glyph]:
    more = {_code("-".join(f"{ord(c):x}" for c in k)): v for k, v in _json(modules, "emojilib/dist/emoji-en-US.json").items()}
    groups = _json(modules, "emojibase-data/meta/groups.json")["groups"]
    glyphs: dict[str, _Glyph] = {}
    for row in _json(modules, "emojibase-data/en/data.json"):
        if "group" not in row or "label" not in row:
            continue  # letters of flags and bare skin tones: not pictures of anything
        keywords = [str(w).replace("_", " ") for w in more.get(_code(row["hexcode"]), ())]
        tags = dict.fromkeys(w.lower() for w in [*row.get("tags", ()), *keywords] if any(c.isalpha() for c in w))
        for one in [row, *(row.get("skins", ()) if tones else ())]:
            code = _code(one["hexcode"])
            glyphs[code] = _Glyph(code, one["label"].lower(), groups[str(row["group"])], tuple(tags))
    return glyphs


def _icons(modules: Path, style: str, glyphs: Mapping[str, _Glyph]) -> Iterator[tuple[_Glyph, str]]:
    """(glyph, SVG) of an iconify package."""
    folder = STYLES[style].package.rpartition("@")[0]
    drawn = _json(modules, f"{folder}/icons.json")
    seen = set()
    for chars, name in sorted(_json(modules, f"{folder}/chars.json").items()):
        code = _code(chars)
        while name in drawn.get("aliases", {}):
            name = drawn["aliases"][name]["parent"]
        icon = drawn["icons"].get(name)
        if code in seen or code not in glyphs or icon is None:
            continue
        seen.add(code)
        box = (icon.get("left", 0), icon.get("top", 0), *(icon.get(k, drawn.get(k, 16)) for k in ("width", "height")))
        yield glyphs[code], f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" ' \
            f'width="{box[2]}" height="{box[3]}" viewBox="{box[0]} {box[1]} {box[2]} {box[3]}">{icon["body"]}</svg>'  # fmt: skip


def _drawings(modules: Path, style: str, glyphs: Mapping[str, _Glyph], size: int) -> Iterator[tuple[_Glyph, np.ndarray]]:
    if style != "fluent-3d":
        for glyph, svg in _icons(modules, style, glyphs):
            yield glyph, render([svg], size)[0]
        return
    for path in sorted((modules / "@lobehub/fluent-emoji-3d/assets").glob("*.webp")):
        if (code := _code(path.stem)) in glyphs:
            with Image.open(path) as image:
                yield glyphs[code], on_white(image, size)


def _check(styles: Sequence[str], size: int) -> None:
    for style in styles:
        if style not in STYLES:
            raise UserError(f"there is no emoji style {style!r}.{nearest(style, STYLES)}")
    if not styles or size < 8:
        raise UserError(f"cannot draw emoji of {size} pixels in {len(styles)} styles: size >= 8, and one style at least.")


def generate_emoji(
    path: str | Path,
    size: int = 64,
    styles: Sequence[str] = PERMISSIVE,
    tones: bool = False,
    progress: Progress | None = None,
) -> None:
    """Draws every emoji of `styles` at `size` x `size` pixels on white, into a file that `emoji` reads.

    tones: the skin-tone variants too. progress: called with (done, about how many).
    Raises UserError where npm or resvg-py is missing, a style is unknown, or `path` cannot be written (before drawing).
    """
    _check(styles, size)
    check_place(Path(path))
    modules = npm.modules((*_WORDS, *(STYLES[s].package for s in styles)))
    glyphs = _glyphs(modules, tones)
    attributes: list[dict[str, str]] = []
    webp: list[bytes] = []
    for style in styles:
        for glyph, image in _drawings(modules, style, glyphs, size):
            attributes.append({"style": style, "group": glyph.group, "label": glyph.label})
            webp.append(encode(image))
            if progress and len(webp) % 100 == 0:
                progress(len(webp), len(glyphs) * len(styles))
    values = {name: sorted({a[name] for a in attributes}) for name in ("style", "group", "label")}
    extra = {"tags": {g.label: g.tags for g in glyphs.values()}}
    licence = "; ".join(f"{s}: {STYLES[s].licence}" for s in styles)
    credit = "; ".join(dict.fromkeys(STYLES[s].credit for s in styles)) + "; words: emojibase, emojilib (MIT)"
    none = np.zeros((0, 3, size, size), np.uint8)
    write(path, Packed("emoji", licence, credit, none, tuple(attributes), extra=extra, values=values), webp)


def _caption(attributes: Mapping[str, str], tags: Sequence[str], rng: np.random.Generator) -> str:
    """label, two thirds of the time a style, and up to four tags in any order; now and then tags alone."""
    some = [tag for tag in tags if rng.random() < 0.3]
    some = [some[k] for k in rng.permutation(len(some))][:4]
    style = attributes["style"].replace("-", " ")
    parts = [*some] if len(some) > 1 and rng.random() < 0.15 else [attributes["label"], *some]
    if rng.random() < 0.66:
        parts.insert(int(rng.random() * 2) * len(parts), f"{style} style" if rng.random() < 0.7 else f"{style} emoji")
    return ", ".join(parts)


def emoji(path: str | Path) -> Pictures:
    """The emoji of a file written by `generate_emoji`. Labels are the groups (smileys, animals, ...).

    Raises UserError where the file is missing, cut short, or of something else.
    """
    packed = read(path)
    attributes = packed.attributes
    tags = packed.extra.get("tags") if isinstance(packed.extra, dict) else None
    if attributes is None or tags is None or "group" not in packed.values:
        raise UserError(f"{path} holds pictures, but not emoji: make one with `reverie data emoji`.")
    groups = tuple(packed.values["group"])
    return Pictures(
        packed.name,
        packed.images,
        packed.licence,
        packed.credit,
        labels=np.array([groups.index(a["group"]) for a in attributes], np.int64),
        classes=groups,
        attributes=attributes,
        caption=lambda i, rng: _caption(attributes[i], tags.get(attributes[i]["label"], ()), rng),
    )
