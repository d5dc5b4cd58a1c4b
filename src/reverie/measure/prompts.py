"""Prompts to judge avatars by: sentences nobody trained on, with what each of them asks for.

Prompt k is drawn under a seed of its own from the law of the avatars; every second one holds a combination of attributes that
is kept out of all training data (`data.avatar_attributes.HELD_OUT`), and says so. The words are those captions are made of, so
that none is unknown to a model; the forms of the sentences are not, so that none is remembered.
"""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reverie.data.avatar_attributes import COVERED, HELD_OUT, draw
from reverie.data.avatar_words import ANYONE, CLOTHING_COLOR, COLOR_WORDS, HAIR_COLOR_WORDS, MAN, PHRASES, WOMAN

SEED = 20_265  # of no other draw, and such that the first 240 avatars are not among the packaged ones


@dataclass(frozen=True)
class Asked:
    """A prompt. attributes: what it asks for. avatar: the whole avatar it was drawn from. new: asks a held-out combination."""

    text: str
    attributes: Mapping[str, str]
    avatar: Mapping[str, str]
    new: bool


def avatar_prompts(count: int = 240, seed: int = SEED, avoid: Iterable[Mapping[str, str]] = ()) -> tuple[Asked, ...]:
    """`count` prompts; the first of them are the same whatever the count. avoid: whole avatars that are drawn again instead."""
    known = {tuple(sorted(a.items())) for a in avoid}
    return tuple(_prompt(seed, k, known) for k in range(count))


def _prompt(seed: int, k: int, known: Container[tuple[tuple[str, str], ...]]) -> Asked:
    rng = np.random.default_rng([seed, k])
    new = k % 2 == 1
    avatar = draw(rng, only_held_out=new)
    while tuple(sorted(avatar.items())) in known:
        avatar = draw(rng, only_held_out=new)
    said = _Said(rng, avatar, _needed(avatar) if new else frozenset())
    text = FORMS[k // 2 % len(FORMS)](said.told())
    return Asked(text, said.asked, avatar, new)


def _needed(avatar: Mapping[str, str]) -> frozenset[str]:
    """The attributes of the first held-out combination this avatar holds: without them the prompt would not ask for it."""
    return next(frozenset(rule) for rule in HELD_OUT if all(avatar.get(n) == v for n, v in rule.items()))


@dataclass
class _Told:
    who: str
    is_: list[str] = field(default_factory=list)  # "smiling", "dark-skinned"
    has: list[str] = field(default_factory=list)  # "a red bun"
    wears: list[str] = field(default_factory=list)  # "round glasses"
    style: str = ""  # "micah"


class _Said:
    """Chooses what is told and in which words, and keeps account of it in `asked`."""

    def __init__(self, rng: np.random.Generator, avatar: Mapping[str, str], needed: frozenset[str]) -> None:
        self.rng, self.avatar, self.needed = rng, avatar, needed
        self.asked: dict[str, str] = {}

    def pick(self, options: Any) -> str:
        return str(options[int(self.rng.random() * len(options))])

    def asks(self, name: str, chance: float) -> bool:
        """Whether the attribute is told; if so it is asked from here on."""
        chosen = self.rng.random() < chance  # drawn even where it does not matter
        if name in self.avatar and (chosen or name in self.needed):
            self.asked[name] = self.avatar[name]
            return True
        return False

    def word(self, name: str, form: str, colour: str = "") -> str:
        """One of the phrases for an attribute's value, with its colour and the right article."""
        phrases = [p for p in getattr(PHRASES[name, self.avatar[name]], form) if p != "wide eyes"]
        return _coloured(self.pick(phrases), colour)

    def told(self) -> _Told:
        a, told = self.avatar, _Told(self.person())
        self.asks("hair", 1.0)
        shaven = a["facial_hair"] == "none"
        hidden = a["hair"] in (*COVERED, "bald")
        colour = self.pick(HAIR_COLOR_WORDS[a["hair_color"]]) if self.asks("hair_color", 0.85 if not hidden else 0.6) else ""
        told.has.append(self.word("hair", "noun", "" if hidden else colour))
        if not shaven and self.asks("facial_hair", 1.0):
            told.has.append(self.word("facial_hair", "noun", colour if hidden else ""))
        for name, chance in (("expression", 0.85), ("skin", 0.6)):
            if self.asks(name, chance):
                told.is_.append(self.word(name, "adj"))
        if a["glasses"] != "none" and self.asks("glasses", 0.95):
            told.wears.append(self.word("glasses", "noun"))
        if self.asks("clothing_color", 0.8):
            shade = self.pick(COLOR_WORDS[a["clothing_color"]])
            kind = self.asks("clothing", 0.6)
            told.wears.append(self.word("clothing", "noun", shade) if kind else _coloured(self.pick(CLOTHING_COLOR), shade))
        if self.asks("style", 0.8):
            told.style = self.word("style", "adj")
        return told

    def person(self) -> str:
        """A noun that says nothing but what beards and hair suggest."""
        if self.avatar["facial_hair"] != "none":
            return self.pick((*MAN, *ANYONE))
        return self.pick((*WOMAN, *ANYONE) if self.avatar["hair"] in ("long", "bob", "bun", "hijab") else ANYONE)


def _coloured(phrase: str, colour: str) -> str:
    text = " ".join(phrase.replace("{c}", colour).split())
    return article(text.split(" ", 1)[1]) if text.startswith(("a ", "an ")) else text


def article(text: str) -> str:
    """With "a" or "an" before it ("an 8-bit face")."""
    return ("an " if text[0] in "aeiou8" else "a ") + text


def _and(items: list[str]) -> str:
    return " and ".join((", ".join(items[:-1]), items[-1])) if len(items) > 1 else "".join(items)


def _the(t: _Told) -> str:
    """the woman is sad, has a red bun, wears round glasses; micah style"""
    parts = [f"is {_and(t.is_)}"] if t.is_ else []
    parts += [f"has {_and(t.has)}"] + ([f"wears {_and(t.wears)}"] if t.wears else [])
    return f"the {t.who} {', '.join(parts)}" + (f"; {t.style} style" if t.style else "")


def _clothes_first(t: _Told) -> str:
    """in a blue hoodie: a sad micah woman, a red bun"""
    person = article(" ".join([*t.is_, *([t.style] if t.style else []), t.who]))
    return (f"in {_and(t.wears)}: " if t.wears else "") + f"{person}, {_and(t.has)}"


def _features_first(t: _Told) -> str:
    """micah, with a red bun and round glasses, the woman is sad"""
    lead = f"{t.style}, " if t.style else ""
    return f"{lead}with {_and(t.has + t.wears)}" + (f", the {t.who} is {_and(t.is_)}" if t.is_ else f", {article(t.who)}")


def _things(t: _Told) -> str:
    """a red bun and round glasses, sad and dark-skinned, as micah"""
    parts = [" and ".join(some) for some in (t.has + t.wears, t.is_) if some]
    return ", ".join(parts + ([f"as {t.style}"] if t.style else []))


def _style_first(t: _Told) -> str:
    """in micah style the woman has a red bun and is sad, round glasses"""
    lead = f"in {t.style} style " if t.style else ""
    text = f"{lead}the {t.who} has {_and(t.has)}" + (f" and is {_and(t.is_)}" if t.is_ else "")
    return text + (f", {_and(t.wears)}" if t.wears else "")


def _two(t: _Told) -> str:
    """sad, with a red bun: a micah picture of a woman in round glasses"""
    lead = ", ".join([*t.is_, f"with {_and(t.has)}"])
    kind = article(f"{t.style} picture" if t.style else "picture")
    return f"{lead}: {kind} of {article(t.who)}" + (f" in {_and(t.wears)}" if t.wears else "")


FORMS: tuple[Callable[[_Told], str], ...] = (_the, _clothes_first, _features_first, _things, _style_first, _two)
