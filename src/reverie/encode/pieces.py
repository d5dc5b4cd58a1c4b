"""What the rows of a prompt's tokens stand for, and where in them a word is."""

from itertools import groupby
from typing import Any

Piece = tuple[str, Any]
"""(who reads it, the number or name of what is read)."""


def pieces(encoder: Any, prompt: Any) -> list[Piece]:
    """One per row of the prompt's tokens; a single one where an encoder gives a vector, or does not tell."""
    tell = getattr(encoder, "pieces", None)
    found: list[Piece] = tell(prompt) if tell is not None else [("whole", prompt)]
    return found


def places(encoder: Any, word: str, prompt: Any) -> list[int]:
    """The rows of the prompt's tokens in which a word, or several, stands; none where it does not."""
    if (tell := getattr(encoder, "places", None)) is not None:
        own: list[int] = tell(word, prompt)
        return own
    rows, nothing = pieces(encoder, prompt), set(pieces(encoder, ""))
    asked = [piece for piece in pieces(encoder, word) if piece not in nothing]
    out: list[int] = []
    for _, group in groupby(asked, key=lambda piece: piece[0]):
        part = list(group)
        for i in range(len(rows) - len(part) + 1):
            if rows[i : i + len(part)] == part:
                out += range(i, i + len(part))
    return sorted(set(out))
