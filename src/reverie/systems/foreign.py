"""Models that others wrote: which of our systems a folder or a file holds."""

import importlib
from pathlib import Path
from types import ModuleType

from reverie.errors import UserError, nearest
from reverie.systems.folders import fingerprint, index
from reverie.systems.system import System

FAMILIES = ("stable_diffusion", "sd3", "flux")
"""The folders under systems/ whose module `folder` opens PIPELINES, writes what it `holds`, and knows the way there and back."""


def family(name: str) -> ModuleType:
    """The module `folder` of a family of systems; its nets are imported only now."""
    return importlib.import_module(f"reverie.systems.{name}.folder")


def open_folder(folder: Path) -> System:
    """A system from a folder in diffusers' layout; UserError where it is none of ours, or damaged."""
    kind = str(index(folder).get("_class_name"))
    known = {pipeline: module for name in FAMILIES for module in [family(name)] for pipeline in module.PIPELINES}
    if kind not in known:
        raise UserError(f"{folder} holds a {kind}, which is none of our systems.{nearest(kind, known)} See `reverie systems`")
    system: System = known[kind].open_folder(folder)
    system.about["hash"] = fingerprint(sorted(folder.glob("*/*.safetensors")))
    return system


def write_folder(system: System, folder: Path) -> None:
    """Writes a folder in diffusers' layout; UserError where diffusers has no such system."""
    for name in FAMILIES:
        if (module := family(name)).holds(system):
            module.write_folder(system, folder)
            return
    raise UserError(f"{system.name} cannot be written for diffusers, which has no system like it")
