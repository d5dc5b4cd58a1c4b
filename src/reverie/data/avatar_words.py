"""Captions: what a person might type to get this avatar.

`PHRASES[attribute, value]` holds every way to say one value; `{c}` is filled with a word for the colour, if it is told.
No phrase says two values of one attribute, so a caption can be checked against the attributes word by word.
A caption tells a random part of the truth in a random order, and never anything else.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from reverie.data.avatar_attributes import COVERED, Attributes


@dataclass(frozen=True)
class Words:
    """adj: before a noun ("a bald man"). noun: after "with" or "has". tag: alone in a list; falls back on the others."""

    adj: tuple[str, ...] = ()
    noun: tuple[str, ...] = ()
    tag: tuple[str, ...] = ()

    def all(self) -> tuple[str, ...]:
        return self.adj + self.noun + self.tag


COLOR_WORDS: dict[str, tuple[str, ...]] = {
    "black": ("black",), "brown": ("brown",), "red": ("red",), "gray": ("gray", "grey"), "blue": ("blue",),
    "green": ("green",), "pink": ("pink",), "purple": ("purple", "violet"), "orange": ("orange",),
    "yellow": ("yellow",), "white": ("white",),
}  # fmt: skip
HAIR_COLOR_WORDS: dict[str, tuple[str, ...]] = {
    **{c: COLOR_WORDS[c] for c in ("blue", "green", "pink", "purple")},
    "black": ("black", "black", "jet-black", "raven"),
    "brown": ("brown", "brown", "chestnut", "brunette"),
    "blonde": ("blonde", "blond", "golden", "yellow"),
    "red": ("red", "red", "ginger", "auburn", "copper"),
    "gray": ("gray", "grey", "silver"),
}

HAIR: dict[str, Words] = {
    "bald": Words(("bald", "hairless", "bald-headed"), ("a bald head", "no hair", "a shaved head", "a shaven head")),
    "short": Words(("short-haired",), ("short {c} hair", "short {c} hair", "a short {c} haircut", "short-cropped {c} hair")),
    "long": Words(("long-haired",), ("long {c} hair", "long {c} hair", "long flowing {c} hair", "{c} long hair")),
    "bob": Words((), ("a {c} bob", "a {c} bob haircut", "{c} hair in a bob", "chin-length {c} hair", "medium-length {c} hair")),
    "curly": Words(("curly-haired",), ("curly {c} hair", "{c} curls", "{c} curly hair")),
    "afro": Words((), ("a {c} afro", "a big {c} afro", "{c} afro hair", "a round {c} afro")),
    "bun": Words((), ("a {c} bun", "{c} hair in a bun", "a {c} hair bun", "{c} hair tied up in a bun", "a {c} top knot")),
    "mohawk": Words((), ("a {c} mohawk", "a {c} mohawk", "a {c} mohawk haircut", "{c} mohawk hair", "a {c} punk mohawk")),
    "dreads": Words((), ("{c} dreadlocks", "{c} dreads", "{c} locs")),
    "hat": Words((), ("a {c} hat", "a {c} brimmed hat", "a {c} hat")),
    "beanie": Words((), ("a {c} beanie", "a {c} knit cap", "a {c} woolly cap", "a {c} winter cap")),
    "turban": Words((), ("a {c} turban", "a wrapped {c} turban")),
    "hijab": Words((), ("a {c} hijab", "a {c} headscarf", "a {c} head scarf")),
}
SKIN = {
    "light": Words(("light-skinned", "pale", "fair-skinned", "pale-skinned"), ("light skin", "pale skin", "fair skin")),
    "tan": Words(("tanned", "tan", "olive-skinned", "tan-skinned"), ("tan skin", "tanned skin", "olive skin", "medium skin")),
    "brown": Words(("brown-skinned",), ("brown skin", "a brown complexion")),
    "dark": Words(("dark-skinned",), ("dark skin", "very dark skin", "a dark complexion", "deep dark skin")),
}
GLASSES = {
    "none": Words((), ("no glasses", "no eyeglasses"), ("without glasses",)),
    "round": Words((), ("round glasses", "round glasses", "round spectacles", "circular glasses", "round eyeglasses",
                        "round specs")),
    "square": Words((), ("square glasses", "square glasses", "rectangular glasses", "square spectacles", "square eyeglasses",
                         "square specs", "angular glasses")),
    "sunglasses": Words((), ("sunglasses", "sunglasses", "dark glasses", "shades", "black sunglasses")),
}  # fmt: skip
SOME_GLASSES = ("glasses", "glasses", "eyeglasses", "spectacles", "specs")  # true of round and of square
FACIAL_HAIR = {
    "none": Words(("clean-shaven", "beardless"), ("no beard", "no facial hair", "a clean-shaven face"), ("without a beard",)),
    "beard": Words(("bearded", "bearded"), ("a {c} beard", "a {c} beard", "a full {c} beard", "a bushy {c} beard")),
    "mustache": Words(("mustached", "moustached"), ("a {c} mustache", "a {c} moustache", "a {c} mustache")),
}
EXPRESSION = {
    "smiling": Words(("smiling", "smiling", "happy", "cheerful", "friendly", "content"),
                     ("a smile", "a happy face", "a gentle smile", "a friendly smile")),
    "laughing": Words(("laughing", "laughing", "grinning", "beaming", "joyful"),
                      ("a big grin", "a wide grin", "a laugh", "an open grin")),
    "sad": Words(("sad", "sad", "unhappy", "gloomy", "upset", "sorrowful", "frowning"),
                 ("a sad face", "a frown", "a sad expression")),
    "angry": Words(("angry", "angry", "mad", "furious", "grumpy", "cross", "scowling"),
                   ("an angry face", "a scowl", "an angry look")),
    "surprised": Words(("surprised", "surprised", "shocked", "astonished", "amazed", "startled"),
                       ("a surprised face", "a shocked expression", "a look of surprise", "wide eyes")),
    "neutral": Words(("serious", "straight-faced", "expressionless", "unsmiling", "calm"),
                     ("a neutral face", "a neutral expression", "a serious expression", "a straight face"), ("neutral",)),
}  # fmt: skip
CLOTHING = {
    "t-shirt": Words((), ("a {c} t-shirt", "a {c} shirt", "a {c} tee", "a {c} tshirt", "a {c} t-shirt")),
    "hoodie": Words((), ("a {c} hoodie", "a {c} hoodie", "a {c} hooded sweatshirt", "a {c} hoody")),
    "sweater": Words((), ("a {c} sweater", "a {c} jumper", "a {c} pullover")),
    "collared shirt": Words((), ("a {c} collared shirt", "a {c} shirt with a collar", "a {c} polo shirt", "a {c} button-up shirt")),
    "jacket": Words((), ("a {c} jacket", "a {c} blazer", "a {c} suit jacket")),
    "overalls": Words((), ("{c} overalls", "{c} dungarees")),
    "tank top": Words((), ("a {c} tank top", "a {c} vest", "a {c} sleeveless top")),
}
CLOTHING_COLOR = ("a {c} top", "{c} clothes", "{c} clothing", "a {c} outfit", "something {c}")
STYLE = {
    "avataaars": Words(("avataaars",), (), ("avataaars style", "avataaars", "in avataaars style", "in the style of avataaars")),
    "micah": Words(("micah",), (), ("micah style", "micah", "in micah style", "in the style of micah")),
    "open-peeps": Words(("open peeps", "open-peeps"), (), ("open peeps style", "open-peeps", "in open peeps style", "peeps style")),
    "pixel-art": Words(("pixel art", "pixel-art", "pixelated", "8-bit"), (),
                       ("pixel art", "pixel art style", "in pixel art style", "pixel-art", "8-bit style", "as pixel art")),
}  # fmt: skip
_TABLES = {
    "hair": HAIR, "skin": SKIN, "glasses": GLASSES, "facial_hair": FACIAL_HAIR, "expression": EXPRESSION,
    "clothing": CLOTHING, "style": STYLE,
}  # fmt: skip
PHRASES = MappingProxyType({(name, value): words for name, table in _TABLES.items() for value, words in table.items()})

MAN = ("man", "man", "guy", "gentleman", "dude", "boy")
WOMAN = ("woman", "woman", "lady", "girl")
ANYONE = ("person", "person", "character", "face", "human", "figure")
FRAMES = ("{}", "{}", "{}", "portrait of {}", "a portrait of {}", "avatar of {}", "an avatar of {}", "picture of {}",
          "a drawing of {}", "the face of {}", "profile picture of {}")  # fmt: skip
TITLES = ("avatar", "portrait", "face", "character", "cartoon face", "profile picture")
_JOINS = ("with", "wearing", "wears", "has", "and", "who", "is", "in", "dressed", "he", "she", "they", "have", "wear", "are",
          "a", "an")  # fmt: skip


def words(text: str) -> list[str]:
    """Lower-case words of a text; hyphens part them ("dark-skinned" is two)."""
    return re.findall(r"[a-z0-9]+", text.lower())


def _every_phrase() -> Iterable[str]:
    for said in PHRASES.values():
        yield from said.all()
    for table in (COLOR_WORDS, HAIR_COLOR_WORDS):
        for some in table.values():
            yield from some
    yield from (*SOME_GLASSES, *CLOTHING_COLOR, *MAN, *WOMAN, *ANYONE, *FRAMES, *TITLES, *_JOINS, "hair", "haired")


VOCABULARY = frozenset(w for phrase in _every_phrase() for w in words(phrase.replace("{c}", "")))


class _Pen:
    """One caption in the making: the attributes, the dice, and which values what was told leaves possible."""

    def __init__(self, attributes: Attributes, rng: np.random.Generator) -> None:
        self.a, self.rng = attributes, rng
        self.told: dict[str, tuple[str, ...]] = {}
        wordy = rng.random()
        self.rate = 1.0 if wordy < 0.2 else 0.78 if wordy < 0.85 else 0.35

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def pick(self, options: Sequence[str]) -> str:
        return options[int(self.rng.random() * len(options))]

    def tells(self, name: str, rate: float = 1.0) -> bool:
        return name in self.a and self.chance(self.rate * rate)

    def note(self, *names: str) -> None:
        self.told |= {name: (self.a[name],) for name in names}

    def shuffled(self, items: list[str]) -> list[str]:
        keys = [self.rng.random() for _ in items]
        return [item for _, item in sorted(zip(keys, items, strict=True), key=lambda pair: pair[0])]

    def coloured(self, phrase: str, colour: str | None) -> str:
        """The phrase with its colour, or with none, and the right article."""
        text = " ".join(phrase.replace("{c}", colour or "").split())
        return re.sub(r"^an? (?=\w)", "", text) if not phrase.startswith(("a ", "an ")) else _article(re.sub(r"^an? ", "", text))


def _article(text: str) -> str:
    return ("an " if text[0] in "aeiou" or text[:2] == "8-" else "a ") + text


def _hair(pen: _Pen) -> tuple[list[str], list[str]]:
    """(adjectives, noun phrases) for hair or head-wear, with its colour or without."""
    hair = pen.a["hair"]
    covered = hair in COVERED
    colour_name = "hat_color" if covered else "hair_color"
    table = COLOR_WORDS if covered else HAIR_COLOR_WORDS
    kind = pen.tells("hair")
    colour = pen.pick(table[pen.a[colour_name]]) if hair != "bald" and pen.tells(colour_name) else None
    if kind:
        said = HAIR[hair]
        pen.note("hair", *([colour_name] if colour else []))
        if said.adj and colour is None and pen.chance(0.6 if hair == "bald" else 0.3):
            return [pen.pick(said.adj)], []
        return [], [pen.coloured(pen.pick(said.noun), colour)]
    if colour is None or covered:
        return [], []
    pen.note(colour_name)
    return ([f"{colour}-haired"], []) if pen.chance(0.3) else ([], [f"{colour} hair"])


def _facial_hair(pen: _Pen) -> tuple[list[str], list[str]]:
    kind = pen.a["facial_hair"]
    rate = 1.05 if kind != "none" else 0.0 if pen.a["hair"] in ("long", "bob", "bun", "hijab") else 0.2
    if not pen.tells("facial_hair", rate):
        return [], []
    said = FACIAL_HAIR[kind]
    pen.note("facial_hair")
    if said.adj and pen.chance(0.3):
        return [pen.pick(said.adj)], []
    told = kind != "none" and pen.chance(0.6 if pen.a["hair"] in (*COVERED, "bald") else 0.12)
    if told:
        pen.note("hair_color")
    return [], [pen.coloured(pen.pick(said.noun), pen.pick(HAIR_COLOR_WORDS[pen.a["hair_color"]]) if told else None)]


def _simple(pen: _Pen, name: str, rate: float, adj: float) -> tuple[list[str], list[str]]:
    if not pen.tells(name, rate):
        return [], []
    said = PHRASES[name, pen.a[name]]
    pen.note(name)
    if said.adj and pen.chance(adj):
        return [pen.pick(said.adj)], []
    hidden = "wide eyes" if pen.a["glasses"] == "sunglasses" else None
    return [], [pen.pick([n for n in said.noun if n != hidden])]


def _glasses(pen: _Pen) -> list[str]:
    kind = pen.a["glasses"]
    if not pen.tells("glasses", 0.15 if kind == "none" else 1.05):
        return []
    vague = kind in ("round", "square") and pen.chance(0.2)
    pen.told["glasses"] = ("round", "square") if vague else (kind,)
    return [pen.pick(SOME_GLASSES if vague else GLASSES[kind].noun)]


def _clothes(pen: _Pen) -> list[str]:
    colour = pen.pick(COLOR_WORDS[pen.a["clothing_color"]]) if pen.tells("clothing_color") else None
    pen.note(*(["clothing_color"] if colour else []))
    if pen.tells("clothing", 0.9):
        pen.note("clothing")
        return [pen.coloured(pen.pick(CLOTHING[pen.a["clothing"]].noun), colour)]
    return [] if colour is None else [pen.coloured(pen.pick(CLOTHING_COLOR), colour)]


def _who(pen: _Pen) -> tuple[str, str]:
    """(noun, pronoun). Nobody in the pictures has a sex; the words follow beards and hair as people would use them."""
    hair, shaven = pen.a["hair"], pen.a["facial_hair"] == "none"
    options: tuple[str, ...]
    if not shaven:
        options, p = MAN, 0.75
    elif hair in ("long", "bob", "bun", "hijab"):
        options, p = WOMAN, 0.75
    else:
        options, p = (WOMAN if pen.chance(0.4) else MAN), 0.6
    if not pen.chance(p):
        return pen.pick(ANYONE), "they"
    return pen.pick(options), "she" if options is WOMAN else "he"


def _join(parts: list[str], pen: _Pen) -> str:
    if len(parts) > 1 and pen.chance(0.6):
        return ", ".join(parts[:-1]) + " and " + parts[-1]
    return ", ".join(parts) if pen.chance(0.7) else " and ".join(parts)


@dataclass
class _Told:
    adj: list[str]
    features: list[str]  # follow "with"
    worn: list[str]  # follow "wearing"
    style: str | None


def _gather(pen: _Pen) -> _Told:
    adj: list[str] = []
    features: list[str] = []
    for a, n in (_hair(pen), _facial_hair(pen), _simple(pen, "expression", 1.0, 0.8), _simple(pen, "skin", 0.85, 0.55)):
        adj += a
        features += n
    worn = _glasses(pen) + _clothes(pen)
    style = pen.a["style"] if pen.chance(0.6) else None
    if not (adj or features or worn):
        adj = [pen.pick(EXPRESSION[pen.a["expression"]].adj)]
        pen.note("expression")
    pen.note(*(["style"] if style else []))
    return _Told(pen.shuffled(adj), pen.shuffled(features), pen.shuffled(worn), style)


def _sentence(pen: _Pen, told: _Told) -> str:
    """a smiling woman with long red hair and round glasses, wearing a blue hoodie, micah style"""
    early = told.style is not None and pen.chance(0.3)
    person = " ".join([*told.adj, _who(pen)[0]])
    if early and told.style:
        person = f"{pen.pick(STYLE[told.style].adj)} {person}"
    text = pen.pick(FRAMES).format(_article(person)) if pen.chance(0.9) else person
    with_, worn = told.features, told.worn
    if pen.chance(0.5) or any(w.startswith("no ") for w in worn):
        with_, worn = pen.shuffled(with_ + worn), []
    if with_:
        text += " with " + _join(with_, pen)
    if worn:
        text += pen.pick((" wearing ", ", wearing ", " in ", ", ")) + _join(worn, pen)
    return text if early or told.style is None else f"{text}, {pen.pick(STYLE[told.style].tag)}"


def _tags(pen: _Pen, told: _Told) -> str:
    """micah avatar: green mohawk, sad, red t-shirt"""
    items = [re.sub(r"^an? ", "", item) for item in told.adj + told.features + told.worn]
    items = pen.shuffled(items)
    title = pen.pick(TITLES)
    if told.style is None:
        return ", ".join(items if pen.chance(0.5) else [title, *items])
    if pen.chance(0.4):
        return f"{pen.pick(STYLE[told.style].adj)} {title}: {', '.join(items)}"
    items.insert(0 if pen.chance(0.4) else len(items), pen.pick(STYLE[told.style].tag))
    return ", ".join(items)


def _prose(pen: _Pen, told: _Told) -> str:
    """a woman. she is sad. she has a red bun and wears a blue shirt. micah style"""
    noun, he = _who(pen)
    is_, has, wears = ("are", "have", "wear") if he == "they" else ("is", "has", "wears")
    parts = [_article(noun)]
    if told.adj:
        parts.append(f"{he} {is_} {_join(told.adj, pen)}")
    have = told.features + [w for w in told.worn if w.startswith("no ")]
    wear = [w for w in told.worn if not w.startswith("no ")]
    if have:
        parts.append(f"{he} {has} {_join(have, pen)}")
    if wear:
        parts.append(f"{he} {wears} {_join(wear, pen)}")
    if told.style:
        parts.append(pen.pick(STYLE[told.style].tag))
    return ". ".join(parts)


_SHAPES: tuple[tuple[float, Callable[[_Pen, _Told], str]], ...] = ((0.62, _sentence), (0.9, _tags), (1.0, _prose))


def caption(attributes: Attributes, rng: np.random.Generator) -> str:
    """One lower-case caption of an avatar: a random true part of `attributes`, in random words and order.

    An attribute is told with a chance of about 0.75 (style 0.6, "no glasses" 0.1); one caption in five tells everything.
    """
    return caption_and_told(attributes, rng)[0]


def caption_and_told(attributes: Attributes, rng: np.random.Generator) -> tuple[str, dict[str, tuple[str, ...]]]:
    """The caption, and for each attribute it tells the values it leaves possible ("glasses" may be of either shape)."""
    pen = _Pen(attributes, rng)
    told = _gather(pen)
    shape = rng.random()
    return next(write for limit, write in _SHAPES if shape <= limit)(pen, told), pen.told
