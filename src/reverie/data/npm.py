"""JavaScript packages, installed on demand into the user's cache: the drawings come from there."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from reverie.errors import UserError


def cache() -> Path:
    """`$XDG_CACHE_HOME/reverie/node`, or `~/.cache/reverie/node`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reverie" / "node"


def _installed(modules: Path, package: str) -> bool:
    """Whether `name@version` is there in that very version."""
    name, _, version = package.rpartition("@")
    try:
        return bool(json.loads((modules / name / "package.json").read_bytes())["version"] == version)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _complete(folder: Path, packages: tuple[str, ...]) -> bool:
    return all(_installed(folder / "node_modules", p) for p in packages)


def modules(packages: tuple[str, ...]) -> Path:
    """The node_modules folder that holds `packages` (each `name@version`), installed where they are not there yet.

    Each set of packages has a folder of its own. Install scripts are not run. Raises UserError where npm is missing or fails (it
    needs a package registry), or the cache cannot be written.
    """
    folder = cache() / hashlib.sha256(" ".join(sorted(packages)).encode()).hexdigest()[:12]
    if not _complete(folder, packages):
        try:
            _install(folder, packages)
        except OSError as error:
            reason = f"cannot write the cache folder {cache()} ({error.strerror})"
            raise UserError(f"{reason}: set XDG_CACHE_HOME to one you can.") from None
    return folder / "node_modules"


def _install(folder: Path, packages: tuple[str, ...]) -> None:
    """Into a temporary neighbour, then renamed: another process finds all of it or nothing."""
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            "npm was not found on PATH, and the drawings are npm packages: apt-get install npm, or use the packaged avatars."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        fresh = Path(temporary) / "fresh"
        fresh.mkdir()
        command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(fresh), *packages]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not _complete(fresh, packages):
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"npm could not install {' '.join(packages)} ({last}): check the network and try again.")
        if _complete(folder, packages):
            return  # another process was quicker
        with contextlib.suppress(FileNotFoundError):
            folder.rename(Path(temporary) / "spoilt")
        try:
            fresh.rename(folder)
        except OSError:
            if not _complete(folder, packages):  # by another process, between the two lines above
                raise


def node() -> str:
    """Path of the `node` program. Raises UserError where it is missing."""
    path = shutil.which("node")
    if path is None:
        raise UserError(
            "node was not found on PATH, and it draws the avatars: apt-get install nodejs, or use the packaged avatars."
        )
    return path
