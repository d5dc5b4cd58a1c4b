"""What there is to choose from: models, what is known of each, and what a job may ask for."""

import contextlib
import functools
import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from reverie.errors import UserError
from reverie.files import metadata
from reverie.process.grids import GRIDS
from reverie.solve.names import SOLVERS
from reverie.studio.asked import TASKS
from reverie.studio.learn import WAYS
from reverie.studio.library import Library
from reverie.studio.strict import plain
from reverie.systems.control.kept import SHIPPED as CONTROLS
from reverie.systems.shipped import SHIPPED
from reverie.systems.weights import CARD
from reverie.tasks.settings import LIMITS, Settings


def models(library: Library) -> list[dict[str, Any]]:
    """Of each its name, size, checksum, licence, and what it draws by itself; shipped ones first."""
    own = {name: Path(library.model(name)) for name in library.names("models") if name not in SHIPPED}
    found = []
    for name, path in {**SHIPPED, **own}.items():
        with contextlib.suppress(OSError):  # gone meanwhile, or not ours to read
            found.append(_told(name, path))
    return found


def loras(library: Library) -> list[dict[str, Any]]:
    """Of each its name, size, checksum, and the model that it says it was made for, if it does."""
    found = []
    for name in library.names("loras"):
        path = Path(library.lora(name))
        stat = path.stat()
        found.append({"id": name, "bytes": stat.st_size, "sha256": _checksum(path, stat.st_mtime_ns), "base": _base(path)})
    return found


def _base(path: Path) -> str | None:
    """As our files, kohya's and modelspec say it."""
    try:
        about = metadata(path)
        own = json.loads(about.get(CARD, "{}")).get("base")
        named = own.get("name") if isinstance(own, dict) else None
        said = named or about.get("ss_base_model_version") or about.get("modelspec.architecture")
        return str(said)[:200] if said else None
    except (UserError, ValueError, AttributeError):
        return None


def _told(name: str, path: Path) -> dict[str, Any]:
    stat, shipped = path.stat(), name in SHIPPED
    told = {"id": name, "object": "model", "created": int(stat.st_mtime), "owned_by": "reverie" if shipped else "library"}
    if path.is_dir():
        return told | {"bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()), "sha256": None}
    return told | {"bytes": stat.st_size, "sha256": _checksum(path, stat.st_mtime_ns)} | _about(path)


@functools.lru_cache(256)
def _checksum(path: Path, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _about(path: Path) -> dict[str, Any]:
    """What a file of ours says of itself: its styles, licence and how it is sampled; nothing of others' files."""
    try:
        card = plain(json.loads(metadata(path).get(CARD, "{}")))
        about, usual = card.get("about", {}), dict(card.get("defaults", {}))
        styles = [style for style in list(about.get("styles", [])) if isinstance(style, str)]
        found = {"styles": styles, "licence": (about.get("data") or {}).get("licence"), "defaults": usual}
        return {name: value for name, value in found.items() if value}
    except (UserError, ValueError, AttributeError, TypeError, RecursionError):
        return {}


def choices(library: Library) -> dict[str, Any]:
    """Settings, solvers, times, tasks and their fields, LoRAs and controls."""
    settings = {f.name: f.default for f in fields(Settings) if f.name not in ("prompt", "guide")}
    return {
        "settings": settings,
        "limits": LIMITS,
        "solvers": list(SOLVERS),
        "grids": [f"{make.__name__}()" for make in GRIDS if _bare(make)],
        "tasks": {make.__name__: _fields(make) for make in TASKS},
        "loras": library.names("loras"),
        "ways": WAYS,
        "controls": [*CONTROLS, *library.names("controls")],
    }


def _bare(make: Any) -> bool:
    """Whether it can be made without arguments."""
    given = inspect.signature(make).parameters.values()
    return all(p.default is not p.empty for p in given if p.kind is not p.VAR_POSITIONAL) and not any(
        p.kind is p.VAR_POSITIONAL for p in given
    )


def _fields(make: Any) -> Mapping[str, Any]:
    found = inspect.signature(make).parameters.values()
    needed = [p.name for p in found if p.default is p.empty]
    usual = {p.name: p.default for p in found if p.default is not p.empty}
    return {"about": inspect.getdoc(make) or "", "needed": needed, "usual": usual}
