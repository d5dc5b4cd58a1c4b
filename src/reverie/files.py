"""Files that are whole or not there: written to a temporary neighbour, flushed to disk, then renamed."""

import contextlib
import glob
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors

from reverie.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

MOST = 200_000
"""Tensors that a file may hold; the largest published systems have some 5,000."""
_COUNT = itertools.count()  # tells apart what the threads of one process write


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """`write` fills a temporary file; a kill or a full disk leaves the old file, never half of the new one.

    Processes and threads may write the same path at once: the last one wins. Raises UserError where the place cannot be written or
    is full.
    """
    with _part(path) as part:
        part.touch()
        mode = part.stat().st_mode  # what any new file gets here; some writers make theirs for the owner alone
        write(part)
        _flush(part)
        part.chmod(mode)
        part.replace(path)
        _flush(path.parent)
    _tidy(path)


def check_place(path: Path) -> None:
    """Refuses with UserError a place where `write_whole` would fail: asked before long work, not after it."""
    with _part(path) as part:
        part.touch()


@contextlib.contextmanager
def _part(path: Path) -> Iterator[Path]:
    """The temporary neighbour of a file, gone afterwards whatever happens; what the disk refuses is a UserError."""
    part = path.with_name(f".{path.name}.{os.getpid()}-{next(_COUNT)}.part")
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
    except (OSError, safetensors.SafetensorError) as error:  # the latter wraps a full disk
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {path}: {reason}; choose a folder that is writable and has room") from None
    finally:
        with contextlib.suppress(OSError):  # a place that cannot be written holds nothing to remove
            part.unlink(missing_ok=True)


def free(path: Path) -> Path:
    """The path itself, or where there is something, the first of name-2, name-3, ... that is free."""
    names = itertools.chain([path], (path.with_name(f"{path.stem}-{k}{path.suffix}") for k in itertools.count(2)))
    return next(name for name in names if not os.path.lexists(name))


def _flush(path: Path) -> None:
    """What was written to a file, or renamed in a folder, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _tidy(path: Path) -> None:
    """Removes what killed processes left of the same file; another that is writing it now is left alone."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        process = part.name.split(".")[-2].partition("-")[0]
        if process.isdigit() and not _alive(int(process)):
            with contextlib.suppress(OSError):
                part.unlink()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # asks, and sends nothing
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def save_tensors(path: Path, tensors: "Mapping[str, Tensor]", about: Mapping[str, Any]) -> None:
    """A safetensors file whose metadata is JSON, one entry per key of `about`."""
    from safetensors.torch import save_file

    text = {k: v if isinstance(v, str) else json.dumps(v) for k, v in about.items()}
    whole = {k: v.detach().contiguous() for k, v in tensors.items()}
    write_whole(path, lambda part: save_file(whole, part, {"format": "pt", **text}))


def load_tensors(path: Path, remedy: str = "get it again, or name another file") -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """(tensors, metadata with its JSON read); a missing, cut or foreign file is a UserError, which ends in `remedy`."""
    from safetensors.torch import load_file

    about = {k: _json(v) for k, v in metadata(path, remedy).items()}
    try:
        return load_file(path), about
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} {_why(path)} ({error}); {remedy}") from None


def load_sound(path: Path) -> "dict[str, Tensor]":
    """The tensors of a file of others, mapped from the disk; errors as of `load_tensors`, and where one holds NaN or infinity.

    They are looked through in a mapping of their own: of those that come back, nothing is in memory before it is used.
    """
    tensors, _ = load_tensors(path)
    with safetensors.safe_open(path, "pt") as handle:
        for key in tensors:
            value = handle.get_tensor(key)
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise UserError(f"{path}: {key} holds NaN or infinity: the file is damaged, get it again")
    return tensors


def metadata(path: Path, remedy: str = "get it again, or name another file") -> dict[str, str]:
    """What the header of a safetensors file says besides its tensors; errors as of `load_tensors`."""
    if not os.path.isfile(path):  # Path.is_file raises in a folder that is not ours to read
        raise UserError(f"{path} is not there: check the path")
    try:
        with safetensors.safe_open(path, "pt") as handle:
            if (count := len(handle.keys())) > MOST:
                raise UserError(f"{path} holds {count} tensors, which no model has: {remedy}")
            return dict(handle.metadata() or {})
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} {_why(path)} ({error}); {remedy}") from None


def _why(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            head = handle.read(4)
    except OSError:
        return "cannot be read"
    if head[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return "is a pickle, which can run code when opened, so it is refused: convert it to safetensors"
    return "is not a whole safetensors file"


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
