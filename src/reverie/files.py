"""Files that are whole or not there: written to a temporary neighbour, flushed to disk, then renamed."""

import itertools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from reverie.errors import UserError


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """`write` fills a temporary file; a kill or a full disk leaves the old file, never half of the new one."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        with part.open("rb+") as handle:
            os.fsync(handle.fileno())
        part.chmod(0o666 & ~_umask())
        part.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except (OSError, safetensors.SafetensorError) as error:  # the latter wraps a full disk
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {path}: {reason}; choose a folder that is writable and has room") from None
    finally:
        part.unlink(missing_ok=True)


def free(path: Path) -> Path:
    """The path itself, or where there is something, the first of name-2, name-3, ... that is free."""
    names = itertools.chain([path], (path.with_name(f"{path.stem}-{k}{path.suffix}") for k in itertools.count(2)))
    return next(name for name in names if not os.path.lexists(name))


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """A safetensors file whose metadata is JSON, one entry per key of `about`."""
    text = {k: v if isinstance(v, str) else json.dumps(v) for k, v in about.items()}
    whole = {k: v.detach().contiguous() for k, v in tensors.items()}
    write_whole(path, lambda part: save_file(whole, part, {"format": "pt", **text}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, metadata with its JSON read); a missing, cut or foreign file is a UserError."""
    if not path.is_file():
        raise UserError(f"{path} is not there: check the path")
    try:
        with safetensors.safe_open(path, "pt") as handle:
            about = {k: _json(v) for k, v in (handle.metadata() or {}).items()}
        return load_file(path), about
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} {_why(path)} ({error}); get it again, or name another file") from None


def _why(path: Path) -> str:
    with path.open("rb") as handle:
        head = handle.read(4)
    if head[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return "is a pickle, which can run code when opened, so it is refused: convert it to safetensors"
    return "is not a whole safetensors file"


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
