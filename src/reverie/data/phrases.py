"""Phrases to learn the meaning of words from: names and tags of pictures, WordNet's lemmas, and both put together in new ways.

WordNet 3.0 (Princeton; free for any use): the file `data.noun` of Debian's `wordnet-base`, read where they are. The
combinations are plain forms ("a blue N", "N with N") over everything that has a name.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reverie.data.pictures import Pictures
from reverie.errors import UserError

WORDNET = "/usr/share/wordnet"
FILES = frozenset(["05", "06", "08", "13", "17", "18", "19", "20"])  # of animals, artefacts, ...: WordNet's lexicographer files
PLAIN = re.compile(r"[a-z]+(?:[ '-][a-z]+)?")
LOOKS = (
    *("red", "blue", "green", "yellow", "orange", "purple", "pink", "brown", "black", "white", "grey", "golden", "silver"),
    *("light blue", "dark green", "colorful", "striped", "transparent", "shiny", "wooden", "stone", "metal", "glass", "paper"),
    *("big", "small", "tiny", "giant", "fat", "thin", "long", "round", "old", "new", "young", "broken", "burning", "frozen"),
    *("wet", "sleeping", "flying", "happy", "sad", "angry", "cute", "funny", "scary", "evil", "magic", "robot", "zombie", "baby"),
)
FORMS = (
    *("a {look} {a}", "{look} {a}", "{look} {a}", "{look} {a}", "a {a}", "the {a}", "{a} and {b}", "{a} with {b}", "{a}, {b}"),
    *("a {look} {a} with a {b}", "{a} in {b}", "{a} on fire", "two {a}s", "{a}s", "a picture of a {a}", "{a} emoji", "{a} icon"),
    *(
        "{look} {a} and {look2} {b}",
        "{a}, {style} style",
        "{style} style, {look} {a}",
        "{look} {a}, {style} emoji",
        "{a} wearing {b}",
    ),
)
STYLES = ("noto", "fluent flat", "fluent 3d")


def atoms(pictures: Pictures, draws: int = 12) -> list[str]:
    """What stands between the commas of captions: names, tags, styles."""
    if pictures.caption is None:
        raise UserError(f"{pictures.name} has no captions to take words from: name a set that has")
    rng = np.random.default_rng(0)
    drawn = (pictures.caption(i, rng) for i in range(len(pictures)) for _ in range(draws))
    return sorted({part for caption in drawn for part in caption.split(", ")})


def lemmas(folder: str | Path = WORDNET) -> list[str]:
    """WordNet's names of what can be drawn, of one or two words: animals, artefacts, bodies, food, objects, people, plants.

    UserError where the folder is not there.
    """
    try:
        lines = (Path(folder) / "data.noun").read_text().splitlines()
    except OSError as error:
        remedy = "apt-get install wordnet-base, or leave it out"
        raise UserError(f"{folder} is not the folder of WordNet ({error.strerror}): {remedy}") from None
    rows = (line.split("|")[0].split() for line in lines if line[:1] != " ")
    drawable = (row for row in rows if row[1] in FILES)
    found = (row[4 + 2 * k].replace("_", " ") for row in drawable for k in range(int(row[3], 16)))
    return list(dict.fromkeys(word for word in found if PLAIN.fullmatch(word)))


def phrases(pictures: Pictures, words: Sequence[str], common: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """`count` different phrases at most: every atom and common word, some of `words`, captions, and as many combinations."""
    rng = np.random.default_rng(seed)
    known, caption = atoms(pictures), pictures.caption
    assert caption is not None
    some = [words[i] for i in rng.permutation(len(words))[: count // 10]]
    out = dict.fromkeys([*known, *common, *some])
    out.update(dict.fromkeys(caption(int(i), rng) for i in rng.integers(len(pictures), size=count // 5)))
    while len(out) < count:
        out[_combined(rng, known, common or known)] = None
    return list(out)[:count]


def _combined(rng: np.random.Generator, known: Sequence[str], common: Sequence[str]) -> str:
    def pick(some: Sequence[str]) -> str:
        return some[int(rng.random() * len(some))]

    a, b = (pick(known if rng.random() < 0.6 else common) for _ in range(2))
    return pick(FORMS).format(a=a, b=b, look=pick(LOOKS), look2=pick(LOOKS), style=pick(STYLES))
