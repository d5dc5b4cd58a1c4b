"""JavaScript packages, installed on demand into the user's cache: the drawings come from there."""

import os
import shutil
import subprocess
from pathlib import Path

from reverie.errors import UserError


def cache() -> Path:
    """`$XDG_CACHE_HOME/reverie/node`, or `~/.cache/reverie/node`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reverie" / "node"


def _installed(modules: Path, package: str) -> bool:
    name, _, _ = package.rpartition("@")
    return (modules / name / "package.json").is_file()


def modules(packages: tuple[str, ...]) -> Path:
    """The node_modules folder that holds `packages` (each `name@version`); installs the missing ones.

    Install scripts are not run. Raises UserError where npm is missing or fails (it needs a package registry).
    """
    folder = cache()
    found = folder / "node_modules"
    if all(_installed(found, p) for p in packages):
        return found
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            "npm was not found on PATH, and the drawings are npm packages: apt-get install npm, or use the packaged avatars."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write the cache folder {folder} ({error.strerror}): set XDG_CACHE_HOME to one you can.") from None
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder), *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"npm could not install {' '.join(packages)} into {folder} ({last}): check the network and try again.")
    return found


def node() -> str:
    """Path of the `node` program. Raises UserError where it is missing."""
    path = shutil.which("node")
    if path is None:
        raise UserError(
            "node was not found on PATH, and it draws the avatars: apt-get install nodejs, or use the packaged avatars."
        )
    return path
