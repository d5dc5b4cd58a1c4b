"""Every style of DiceBear's collection, in DiceBear's own words: it draws by its own chances, and captions are the names of parts.

DiceBear says of each avatar which part of each kind it has ({"hair": "long20", "hairColor": "#ab2a18"}), and a style's schema
which kinds there are and what each can be. A number is no word ("long hair"); a colour has the name of the nearest basic one in
OKLab (Ottosson, 2020); a kind that is always there and has no words ("eyes": "variant07") is left out.

Source: DiceBear 9.4.3 (MIT), `@dicebear/collection`. The drawings belong to their designers: `licence` and `credit`.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

Attributes = Mapping[str, str]
About = Mapping[str, Any]
"""What a style's package says of it. meta: title, creator, homepage, license. defaults: of each option of its schema."""

COLLECTION = (
    "adventurer", "adventurer-neutral", "avataaars", "avataaars-neutral", "big-ears", "big-ears-neutral", "big-smile", "bottts",
    "bottts-neutral", "croodles", "croodles-neutral", "dylan", "fun-emoji", "glass", "icons", "identicon", "initials", "lorelei",
    "lorelei-neutral", "micah", "miniavs", "notionists", "notionists-neutral", "open-peeps", "personas", "pixel-art",
    "pixel-art-neutral", "rings", "shapes", "thumbs", "toon-head",
)  # fmt: skip

# Several of each, because a colour is a region: pale and deep ones too.
_COLOURS = {
    "black": "000000 1f1d24", "white": "ffffff", "gray": "6b6f75 91969c c4c8cc", "red": "a8201a d8342c f2504b", "orange": "f28a1e",
    "yellow": "f7d438 fff3a0", "green": "1e6b32 38a649 a5e09a", "blue": "1c2f7a 1c799f 2f6fd8 5fd0e6 a9d3f5",
    "purple": "4a1f7a 8a45c4 c9a8f0 dddfff", "pink": "e8409a e88a80 f58fc2 fbcfe0", "brown": "4a2a1a 6e4023 a0653a",
    "beige": "dca87c f0cda8",
}  # fmt: skip
_SILENT = frozenset({"variant", "default", "base", "standard", "features", "primary"})
_UNSEEN = re.compile("font|background|secondary")  # kinds that the picture does not show, or that are said otherwise


def job(style: str, rng: np.random.Generator) -> dict[str, Any]:
    """What the drawing program is asked. Everything follows from the seed, a name of two words: one style draws its initials."""
    first, last = ("".join(chr(65 + int(26 * rng.random())) for _ in range(6)) for _ in range(2))
    return {"style": style, "options": {"seed": f"{first} {last}"}}


def licence(style: str, about: About) -> str:
    """Of the drawings, not of the code that draws."""
    return f"{style}: {about['meta']['license']['name'].rstrip('.')}"


def credit(about: About) -> str:
    """Who designed the style, and where they are found."""
    meta = about["meta"]
    return f"{meta['title']} by {meta['creator']} ({meta.get('homepage') or meta['source']})"


def phrases(attributes: Attributes, defaults: Mapping[str, Any]) -> list[str]:
    """What can be said of an avatar, one phrase for each part of it that has words or a colour of its own."""
    found = []
    for name, value in sorted(attributes.items()):
        part, is_colour = name.removesuffix("Color"), name.endswith("Color")
        if name == "style" or _UNSEEN.match(name):
            continue
        if is_colour and name != "primaryBackgroundColor" and (part in attributes or part in defaults):
            continue  # said with its part; of a part that this avatar lacks there is nothing to say
        kind = _words(part)
        told = [] if is_colour else [word for word in _words(value) if word not in kind]
        colour = _colour(attributes, f"{part}Color", defaults)
        if told or colour or (f"{name}Probability" in defaults):
            found.append(" ".join([*colour, *told, *kind]))
    return found


def caption(attributes: Attributes, defaults: Mapping[str, Any], rng: np.random.Generator) -> str:
    """About three quarters of the phrases in any order, and mostly the style."""
    told = [phrase for phrase in phrases(attributes, defaults) if rng.random() < 0.75]
    told = [told[k] for k in rng.permutation(len(told))]
    if not told or rng.random() < 0.7:
        told.insert(int(2 * rng.random()) * len(told), f"{attributes['style'].replace('-', ' ')} style")
    return ", ".join(told)


def _words(name: str) -> list[str]:
    """longHair20 -> long, hair: numbers and single letters are no words."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]{2,}", name)
    return [part.lower() for part in parts if len(part) > 1 and part not in _SILENT]


def _colour(attributes: Attributes, name: str, defaults: Mapping[str, Any]) -> list[str]:
    """The colour's name, in a list; none where there is no colour or the style has only this one."""
    value = attributes.get(name, "")
    choices = defaults.get("backgroundColor" if name == "primaryBackgroundColor" else name)
    constant = isinstance(choices, list) and len(choices) < 2
    return [nearest_colour(value[1:])] if re.fullmatch("#[0-9a-f]{6}", value) and not constant else []


def nearest_colour(code: str) -> str:
    """The basic word for a colour given as six hexadecimal digits."""
    table = [(word, some) for word, codes in _COLOURS.items() for some in codes.split()]
    apart = [np.square((_oklab(code) - _oklab(some)) * (1, 2, 2)).sum() for _, some in table]  # hue says more than lightness
    return table[int(np.argmin(apart))][0]


def _oklab(code: str) -> np.ndarray:
    """(lightness, green-red, blue-yellow)."""
    rgb = np.array([int(code[k : k + 2], 16) for k in (0, 2, 4)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    cones = np.cbrt([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]] @ linear)
    return np.array([[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]) @ cones
