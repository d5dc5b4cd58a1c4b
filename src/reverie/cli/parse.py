"""Dataclasses from words: tyro, with its complaints in one line."""

import contextlib
import io
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import Field, fields, is_dataclass
from typing import Any, TypeVar, get_args

import tyro

from reverie.errors import UserError, nearest

T = TypeVar("T")


def parse(kind: type[T], arguments: Sequence[str], prog: str, default: Any = None) -> T:
    """An instance of a dataclass; an unknown flag or a value of the wrong type is a UserError."""
    said = io.StringIO()
    more = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(said):
            made, unknown = tyro.cli(
                kind, args=list(arguments), prog=prog, return_unknown_args=True, config=(tyro.conf.AvoidSubcommands,), **more
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(_line(said.getvalue())) from None
    if unknown:
        raise UserError(_unknown(unknown[0], made if default is None else default, prog))
    sys.stderr.write(said.getvalue())
    return made


def _unknown(word: str, value: Any, prog: str) -> str:
    """What to say of a flag that is not known; the name of a positional argument is not one."""
    name = word.partition("=")[0].removeprefix("--")
    if name in [f.name for f in fields(value) if _positional(f)]:
        return f"{prog} takes its {name} without a flag: {prog} {name.upper()}"
    return f"{prog} does not know '{word}'.{nearest(word, [f'--{flag}' for flag in _flags(value)])}"


def _marks(f: Field[Any]) -> tuple[Any, ...]:
    return getattr(f.type, "__metadata__", ())


def _positional(f: Field[Any]) -> bool:
    return tyro.conf.Positional in _marks(f)


def _named(f: Field[Any]) -> str:
    """What a field is called on the command line; '' where its own fields stand without a prefix."""
    own = [mark.name for mark in _marks(f) if isinstance(getattr(mark, "name", None), str)]
    return own[0] if own else f.name.replace("_", "-")


def _closed(f: Field[Any], value: Any) -> bool:
    """What has no flag: a mapping, and a dataclass that a preset goes without."""
    return isinstance(value, Mapping) or (value is None and any(map(is_dataclass, get_args(f.type))))


def _flags(value: Any, prefix: str = "") -> list[str]:
    out = []
    for f in fields(value):
        inner, name = getattr(value, f.name), _named(f)
        if is_dataclass(inner):
            out += _flags(inner, f"{prefix}{name}." if name else prefix)
        elif not _positional(f) and not _closed(f, inner):
            out.append(f"{prefix}{name}")
    return out


def _line(text: str) -> str:
    plain = re.sub(r"\x1b\[[0-9;]*m|[─-╿]|-{5,}", " ", text)
    said = re.sub(
        r"^(Parsing error|Missing argument|Invalid choice|Value error) | For full helptext, .*", "", " ".join(plain.split())
    )
    return _mistyped(said) or said.strip() or "the command line could not be read; see --help"


def _mistyped(said: str) -> str:
    """What to say of a value that is no number; '' of any other complaint."""
    found = re.match(r"Error parsing (--\S+): .*?(\[.*?\]|'.*?').*?Argument helptext: --\S+ (.*)", said)
    kind = re.match(r"[{}\w|\[ ]*?\b(INT|FLOAT)\b", found[3]) if found else None
    if found is None or kind is None:
        return ""
    words = re.findall(r"'(.*?)'", found[2])
    number = ("whole " if kind[1] == "INT" else "") + "number"
    return f"{found[1]} is '{' '.join(words)}'; it must be {f'{number}s' if len(words) > 1 else f'a {number}'}"
