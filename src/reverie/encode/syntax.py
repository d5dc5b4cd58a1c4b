r"""What the signs in a prompt mean: the syntax of A1111's web UI, whose own examples are the tests.

A prompt is read in four passes, each of which hands plain text to the next:

1. `extras`: `<lora:name:0.8>`, `<hypernet:name>` name files; they are taken out.
2. `composed`: `a fox AND snow :0.5` is several prompts, each with a weight (Liu et al., arXiv:2206.01714).
3. `schedule`: `[from:to:when]`, `[to:when]` and `[from::when]` change on the way, `[a|b|c]` with each step. `when` with a point is
   a share of the steps, without one it is how many steps are done before the change.
4. `emphasis`: `(a)` weighs 1.1, `[a]` 1 / 1.1, `(a:1.3)` 1.3, and brackets within brackets the product; `BREAK` fills up a chunk
   of 75 tokens. `\(` is a bracket of the text.

Brackets need not fit: what is not closed reaches to the end of the prompt, and a closing one too many is a letter. What looks
like a schedule and is none, as `[a:b]`, is emphasis.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from reverie.errors import UserError

UP = 1.1
"""The weight of (a), and the inverse of that of [a]."""
BREAK = ("BREAK", -1.0)
"""What `emphasis` gives for the word BREAK."""
DEEPEST = 50
"""Changes within changes."""
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
EXTRA = re.compile(r"<(\w+):([^>]+)>")
AND = re.compile(r"\bAND\b")
WEIGHT = re.compile(r":\s*([-+]?(?:\d+\.?\d*|\.\d+))\s*$")
PIECE = re.compile(r"(?:[^\\\[\]():|]|\\.)+|.", re.S)
MARK = re.compile(r"\\[()\[\]\\]|\\|[()\[\]]|:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)|[^\\()\[\]:]+|:")
NEW = re.compile(r"\s*\bBREAK\b\s*")
Weighed = list[tuple[str, float]]


@dataclass(frozen=True)
class Extra:
    """A file that a prompt names, `<kind:name:weights>`, and how it is written there."""

    kind: str
    name: str
    weights: tuple[str, ...]
    text: str


class Said(str):
    """The words of a prompt whose parts have weights: text for all who read words, `parts` for those who can weigh them.

    parts: as of `emphasis`. Two are equal where their parts are.
    """

    parts: tuple[tuple[str, float], ...]

    def __new__(cls, parts: Weighed) -> "Said":
        made = super().__new__(cls, "".join(" " if part == BREAK else part[0] for part in parts))
        made.parts = tuple(parts)
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Said) and self.parts == other.parts

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.parts)

    @property
    def weighed(self) -> bool:
        """Whether any part has a weight; the others only begin chunks."""
        return any(part != BREAK and part[1] != 1 for part in self.parts)


def said(text: str) -> str:
    """The text without its signs: a plain string where nothing in it is weighed, else `Said`."""
    parts = emphasis(text)
    return parts[0][0] if len(parts) == 1 and parts[0][1] == 1 else Said(parts)


def parts(prompt: str) -> Weighed:
    """The parts of what `said` gives; of other text, itself."""
    return list(prompt.parts) if isinstance(prompt, Said) else [(prompt, 1.0)]


def extras(prompt: str) -> tuple[str, tuple[Extra, ...]]:
    """The prompt without the files it names, and these."""
    found = []
    for match in EXTRA.finditer(prompt):
        name, *weights = match[2].split(":")
        found.append(Extra(match[1], name, tuple(weights), match[0]))
    return EXTRA.sub("", prompt), tuple(found)


def composed(prompt: str) -> Weighed:
    """The prompts that AND joins, each with its weight; without AND there is no weight, for `half past 10:30` is words."""
    return [(text, float(weight)) for text, weight in _composed(prompt)]


def _composed(prompt: str) -> list[tuple[str, str]]:
    """The same, with the weights as they are written."""
    texts = AND.split(prompt)
    if len(texts) == 1:
        return [(prompt, "1")]
    found = [(text, WEIGHT.search(text)) for text in texts]
    return [(text[: m.start()].strip(), m[1]) if m else (text.strip(), "1") for text, m in found]


@dataclass(frozen=True)
class _Change:
    """before: in the first `when` steps; after: then."""

    before: "Pieces"
    after: "Pieces"
    when: str

    def until(self, steps: int) -> int:
        number = float(self.when)
        return int(min(number * steps if "." in self.when else number, steps))

    def at(self, step: int, steps: int) -> "Pieces":
        return self.before if step <= self.until(steps) else self.after


@dataclass(frozen=True)
class _Turns:
    """One choice for each step, and again from the first."""

    choices: tuple["Pieces", ...]

    def at(self, step: int, steps: int) -> "Pieces":
        return self.choices[(step - 1) % len(self.choices)]


Pieces = tuple["str | _Change | _Turns", ...]


@dataclass
class _Open:
    """A bracket that is not closed yet: what stands in it so far, parted by the signs : and |."""

    sign: str
    parts: list[list["str | _Change | _Turns"]] = field(default_factory=lambda: [[]])
    signs: list[str] = field(default_factory=list)

    def flat(self) -> list["str | _Change | _Turns"]:
        """Everything in it as it is written, the opening sign first."""
        out: list[str | _Change | _Turns] = [self.sign, *self.parts[0]]
        for sign, part in zip(self.signs, self.parts[1:], strict=True):
            out += [sign, *part]
        return out

    def closed(self) -> list["str | _Change | _Turns"] | None:
        """What the whole bracket is; None where it is no bracket of this syntax, and so no other may hold it."""
        colons = self.signs.count(":")
        if self.sign == "(":
            return [*self.flat(), ")"] if colons <= 1 else None
        if not colons:
            return [_Turns(tuple(map(tuple, self.parts)))] if self.signs else [*self.flat(), "]"]
        groups: list[list[str | _Change | _Turns]] = [[*self.parts[0]]]
        for sign, part in zip(self.signs, self.parts[1:], strict=True):
            if sign == ":":
                groups.append([*part])
            else:  # between colons it is a letter
                groups[-1] += ["|", *part]
        when = groups[-1][0] if len(groups[-1]) == 1 else None
        if len(groups) > 3 or not isinstance(when, str) or not NUMBER.fullmatch(when.strip()):
            return None
        before = groups[0] if len(groups) == 3 else []
        return [_Change(tuple(before), tuple(groups[-2]), when.strip())]


def _parsed(text: str) -> Pieces:
    """The text with its changes and turns; a bracket that is none of either is text, and so are those around it."""
    top = _Open("")
    open_: list[_Open] = [top]
    for match in PIECE.finditer(text):
        piece = match[0]
        if piece in ("[", "("):
            open_.append(_Open(piece))
        elif piece in ("]", ")"):
            fits = len(open_) > 1 and (open_[-1].sign + piece) in ("[]", "()")
            if fits and (made := open_[-1].closed()) is not None:
                open_.pop()
                open_[-1].parts[-1] += made
            else:
                _give_up(open_)
                top.parts[-1].append(piece)
        elif piece in (":", "|") and len(open_) > 1:
            open_[-1].signs.append(piece)
            open_[-1].parts.append([])
        else:
            open_[-1].parts[-1].append(piece)
    _give_up(open_)
    pieces = tuple(top.parts[-1])
    _check_depth(pieces)
    return pieces


def _give_up(open_: list[_Open]) -> None:
    """Every bracket that is open is text."""
    for bracket in open_[1:]:
        open_[0].parts[-1] += bracket.flat()
    del open_[1:]


def _inner(pieces: Pieces) -> Iterator[Pieces]:
    for piece in pieces:
        if not isinstance(piece, str):
            yield from (piece.before, piece.after) if isinstance(piece, _Change) else piece.choices


def _check_depth(pieces: Pieces) -> None:
    level, depth = [pieces], 0
    while level := [inner for some in level for inner in _inner(some)]:
        if (depth := depth + 1) > DEEPEST:
            raise UserError(f"more than {DEEPEST} changes lie within each other in a prompt: say fewer")


def _ends(pieces: Pieces, steps: int) -> Iterator[int]:
    """After how many steps something changes."""
    for piece in pieces:
        if isinstance(piece, _Change):
            yield piece.until(steps)
        elif isinstance(piece, _Turns):
            yield from range(1, steps + 1)
    for inner in _inner(pieces):
        yield from _ends(inner, steps)


def _at(pieces: Pieces, step: int, steps: int) -> str:
    return "".join(p if isinstance(p, str) else _at(p.at(step, steps), step, steps) for p in pieces)


def schedule(prompt: str, steps: int) -> list[tuple[int, str]]:
    """(until, text) in order: the text of the steps up to `until`, counted from 1; the last is `steps`."""
    pieces = _parsed(prompt)
    ends = sorted({steps, *(end for end in _ends(pieces, steps) if end >= 1)})
    return [(end, _at(pieces, end, steps)) for end in ends]


def late(prompt: str, steps: int) -> bool:
    """Whether it says a change that these steps never reach."""
    everything: list[Pieces] = [_parsed(prompt)]
    for pieces in everything:
        everything += _inner(pieces)
    changes = (p for pieces in everything for p in pieces if isinstance(p, _Change))
    return any(change.until(steps) >= steps for change in changes)


def emphasis(text: str) -> Weighed:
    """(text, weight) in order, neighbours of one weight joined; `BREAK` where a chunk ends, at whatever weight."""
    return _weighed(text)[0]


def unbalanced(text: str) -> list[str]:
    """The brackets that are not closed, and those that close nothing."""
    return _weighed(text)[1]


def _weighed(text: str) -> tuple[Weighed, list[str]]:
    """The parts of a text, and its brackets that have no other half."""
    texts: list[str] = []
    weights: list[float] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}
    odd: list[str] = []

    def weigh(first: int, by: float) -> None:
        weights[first:] = [weight * by for weight in weights[first:]]

    for mark in MARK.finditer(text):
        piece, weight = mark[0], mark[1]
        if piece in opened:
            opened[piece].append(len(texts))
        elif weight is not None and opened["("]:
            weigh(opened["("].pop(), float(weight))
        elif piece == ")" and opened["("]:
            weigh(opened["("].pop(), UP)
        elif piece == "]" and opened["["]:
            weigh(opened["["].pop(), 1 / UP)
        else:
            odd += [piece[-1]] if weight is not None or piece in (")", "]") else []
            for i, part in enumerate([piece[1:]] if piece[0] == "\\" else NEW.split(piece)):
                texts += [BREAK[0], part] if i else [part]
                weights += [math.nan, 1.0] if i else [1.0]
    for sign, by in (("(", UP), ("[", 1 / UP)):
        odd += [sign] * len(opened[sign])
        for first in opened[sign]:
            weigh(first, by)
    return _joined(texts, weights), odd


def _joined(texts: list[str], weights: list[float]) -> Weighed:
    """Neighbours of one weight as one part. A weight that is no number is the mark of a chunk's end."""
    out: Weighed = []
    for text, weight in zip(texts, weights, strict=True):
        if math.isnan(weight):
            out.append(BREAK)
        elif out and out[-1] != BREAK and out[-1][1] == weight:
            out[-1] = (out[-1][0] + text, weight)
        elif text:
            out.append((text, weight))
    return out or [("", 1.0)]


def appended(prompt: str, more: str) -> str:
    """The prompt with `more` at its end; of those that AND joins, at the end of each, before its weight."""
    joined = _composed(prompt)
    if len(joined) == 1:
        return prompt + more
    return " AND ".join(f"{text}{more} :{weight}" for text, weight in joined)
