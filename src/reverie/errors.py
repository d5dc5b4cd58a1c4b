"""The one exception that is a person's to mend.

Anything a user can cause (a wrong name, a broken file, an impossible setting) is raised as `UserError`: its message is one
line that says what was wrong, where, and what to do. The command line prints that line and leaves with exit code 2.
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any


class UserError(ValueError):
    """What was wrong, where, and what to do, in one line."""


def number(name: str, value: Any, whole: bool = False) -> None:
    """UserError unless it is a finite number; whole: one without a fraction. True and False are none."""
    kind = Integral if whole else Real
    if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value):
        raise UserError(f"{name} is {value!r:.60}; it is a {'whole ' if whole else ''}number")


def nearest(word: str, known: Iterable[str]) -> str:
    """The remedy for a misspelt name: ` Did you mean 'micah'? Known: avataaars, micah, ...`."""
    known = list(known)
    return f"{closest(word, known)} Known: {', '.join(known)}."


def closest(word: str, known: Iterable[str]) -> str:
    """The first half of it, or '' where nothing is near; of a mapping, what is said is the value."""
    known = known if isinstance(known, Mapping) else {name: name for name in known}
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{known[close[0]]}'?" if close else ""
