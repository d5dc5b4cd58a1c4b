"""What an avatar can be: one vocabulary of attributes for every style, and the law they are drawn from.

The pictures are drawn with DiceBear, but its own sampling is not used: each style would have its own words and its own
frequencies. Here the attributes are drawn first, in plain names, and `avatar_parts` says which part of each style shows them.

hair          kind of hair or of head-wear: bald, short, ..., hat, turban
hair_color    of hair and facial hair; absent where neither shows
hat_color     of the head-wear; absent without one
skin, glasses, facial_hair, expression, clothing, clothing_color, style    always given
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

Attributes = Mapping[str, str]

STYLES = ("avataaars", "micah", "open-peeps", "pixel-art")
COVERED = ("hat", "beanie", "turban", "hijab")

HAIR_COLORS = {
    "black": "1f1d24", "brown": "6e4023", "blonde": "f0c548", "red": "c9431b", "gray": "9a9ba1",
    "blue": "2f6fe0", "green": "2fa84a", "pink": "f57dbb", "purple": "8a3fc4",
}  # fmt: skip
SKINS = {"light": "fcd7bb", "tan": "dfa26a", "brown": "a96b37", "dark": "693f25"}
CLOTHING_COLORS = {
    "red": "d8342c", "orange": "f28a1e", "yellow": "f7d438", "green": "38a649", "blue": "2f6fd8", "purple": "8a45c4",
    "pink": "f58fc2", "gray": "91969c", "black": "26262b", "white": "f7f7f7",
}  # fmt: skip

_WEIGHTS: dict[str, dict[str, float]] = {
    "hair": {
        "bald": 8, "short": 18, "long": 18, "bob": 11, "curly": 9, "afro": 9, "bun": 8, "mohawk": 11, "dreads": 6,
        "hat": 4, "beanie": 4, "turban": 4, "hijab": 4,
    },
    "hair_color": {
        "black": 16, "brown": 14, "blonde": 12, "red": 13, "gray": 8, "blue": 10, "green": 10, "pink": 9, "purple": 8,
    },
    "skin": {"light": 30, "tan": 24, "brown": 24, "dark": 22},
    "glasses": {"none": 46, "round": 18, "square": 18, "sunglasses": 18},
    "facial_hair": {"none": 62, "beard": 24, "mustache": 14},
    "expression": {"smiling": 26, "laughing": 16, "sad": 16, "angry": 14, "surprised": 14, "neutral": 14},
    "clothing": {"t-shirt": 40, "hoodie": 18, "sweater": 14, "collared shirt": 14, "jacket": 12, "overalls": 9, "tank top": 9},
    "clothing_color": dict.fromkeys(CLOTHING_COLORS, 1),
    "hat_color": {c: 1 for c in CLOTHING_COLORS if c not in ("white", "gray")},
}  # fmt: skip
_WEIGHTS["style"] = dict.fromkeys(STYLES, 1)

VALUES: Mapping[str, tuple[str, ...]] = MappingProxyType({name: tuple(table) for name, table in _WEIGHTS.items()})

# What a style can show; an attribute that is not named here can take every value.
SUPPORT: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "avataaars": {
            "clothing": ("t-shirt", "hoodie", "sweater", "jacket", "overalls"),
            "clothing_color": tuple(c for c in CLOTHING_COLORS if c != "white"),  # no outline: white on white
        },
        "micah": {
            "hair": ("bald", "short", "long", "bob", "mohawk", "turban"),
            "clothing": ("t-shirt", "sweater", "collared shirt"),
            "expression": ("smiling", "laughing", "sad", "angry", "surprised"),
        },
        "open-peeps": {
            "hair": ("bald", "short", "long", "bob", "curly", "afro", "bun", "mohawk", "hat", "beanie", "turban", "hijab"),
            "clothing": ("t-shirt",),
        },
        "pixel-art": {
            "hair": ("bald", "short", "long", "bob", "curly", "afro", "bun", "mohawk", "hat", "beanie"),
            "clothing": ("t-shirt", "sweater", "tank top"),
            "clothing_color": tuple(c for c in CLOTHING_COLORS if c != "white"),
            "glasses": ("none", "square", "sunglasses"),
        },
    }
)

HELD_OUT: tuple[Attributes, ...] = (
    {"hair": "mohawk", "hair_color": "green"},
    {"hair": "afro", "hair_color": "pink"},
    {"hair_color": "blue", "facial_hair": "beard"},
    {"hair": "mohawk", "hair_color": "red", "glasses": "sunglasses"},
    {"hair": "bun", "hair_color": "purple", "glasses": "round"},
    {"hair": "turban", "expression": "sad"},
    {"hair": "long", "hair_color": "gray", "glasses": "square"},
    {"hair": "bald", "glasses": "sunglasses", "expression": "angry"},
    {"hair": "curly", "hair_color": "blonde", "skin": "dark"},
    {"hair": "hat", "facial_hair": "beard", "glasses": "round"},
    {"hair": "bob", "hair_color": "blue", "expression": "surprised"},
    {"facial_hair": "mustache", "hair_color": "pink", "expression": "laughing"},
)


def held_out(attributes: Attributes) -> bool:
    """Whether these attributes contain a combination kept out of all training data, in every style.

    `HELD_OUT` lists the combinations (about 5 % of the mass); a prompt that asks for one cannot be answered from memory.
    """
    return any(all(attributes.get(name) == value for name, value in rule.items()) for rule in HELD_OUT)


def choose(rng: np.random.Generator, weights: Mapping[str, float]) -> str:
    """One key, drawn by weight. Only `rng.random()` is used, so a draw means the same under every numpy."""
    point = rng.random() * sum(weights.values())
    for value, weight in weights.items():
        point -= weight
        if point < 0:
            return value
    return value


def _allowed(style: str, name: str) -> dict[str, float]:
    known = SUPPORT[style].get(name)
    return {v: w for v, w in _WEIGHTS[name].items() if known is None or v in known}


def _draw(rng: np.random.Generator, style: str) -> dict[str, str]:
    order = ("hair", "hair_color", "hat_color", "skin", "glasses", "facial_hair", "expression", "clothing", "clothing_color")
    drawn = {"style": style} | {name: choose(rng, _allowed(style, name)) for name in order}
    hair = drawn["hair"]
    if hair == "hijab" or (hair in ("long", "bob", "bun") and rng.random() < 0.5):
        drawn["facial_hair"] = "none"
    if drawn["glasses"] == "sunglasses" and style == "open-peeps" and drawn["expression"] == "surprised":
        drawn["expression"] = "laughing"  # its surprise is all in the eyes
    if hair not in COVERED:
        del drawn["hat_color"]
    if hair in (*COVERED, "bald") and drawn["facial_hair"] == "none":
        del drawn["hair_color"]
    return drawn


def draw(rng: np.random.Generator, style: str | None = None, *, only_held_out: bool = False) -> dict[str, str]:
    """Attributes of one avatar: never a held-out combination, or always one with `only_held_out`."""
    while True:
        drawn = _draw(rng, style or choose(rng, _WEIGHTS["style"]))
        if held_out(drawn) == only_held_out:
            return drawn
