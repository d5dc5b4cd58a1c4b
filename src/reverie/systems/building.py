"""Nets of others are built from what their files say of their shape, which may be anything: within bounds, and without weights."""

import contextlib
import re
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from reverie.errors import UserError

PIECES, SPARE = 8, 1000
"""Weights that a net may have for each tensor of its file, which may be a stack of several, and what a net may have besides."""


@contextlib.contextmanager
def building(where: str, tensors: int, what: str = "net") -> Iterator[None]:
    """Here a net is made from a file of so many tensors, on `meta`; whatever goes wrong is one UserError, as are too many weights.

    where: the file, or the part of it. what: it should be.
    """
    count, most, thread = 0, PIECES * tensors + SPARE, threading.get_ident()

    def counted(module: Any, name: str, value: Any) -> None:
        nonlocal count
        count += threading.get_ident() == thread
        if count > most:
            raise ValueError(f"it would have more than {most} weights, and {tensors} tensors are there")

    hook = register_module_parameter_registration_hook(counted)
    try:
        with torch.device("meta"):
            yield
    except UserError:
        raise
    except Exception as error:  # whatever our configuration or our net says of such values, they are the file's
        raise UserError(f"{where}: its tensors are no whole {what} ({_said(error)}): get it again") from None
    finally:
        hook.remove()


def _said(error: Exception) -> str:
    said = f"{error} is missing" if isinstance(error, KeyError) else str(error) or type(error).__name__
    return " ".join(said.split())[:200]


def known(theirs: Mapping[str, Any], read: Collection[str], fixed: Mapping[str, tuple[Any, ...]], where: str, whose: str) -> None:
    """UserError where a configuration has a field that is not read, and says neither what is `fixed` in our net nor nothing."""
    for field, value in theirs.items():
        if not field.startswith("_") and field not in read and value not in fixed.get(field, (None, False)):
            raise UserError(f"{where}: {field} is {value!r}, which {whose} has, and ours neither")


def numbered(names: Iterable[str], pattern: str) -> int:
    """How many different numbers the names have at a place; 0 for none. ValueError where one before the last has no name."""
    found = {int(m[1]): m[0] for name in names if (m := re.match(pattern, name))}
    if found and max(found) + 1 != len(found):
        gap = next(k for k in range(len(found)) if k not in found)
        raise ValueError(f"it has {found[max(found)].rstrip('.')}, and none of the number {gap}")
    return len(found)
