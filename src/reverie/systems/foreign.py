"""Models that others wrote: which of our systems a folder or a file holds."""

import importlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType

from reverie.errors import UserError
from reverie.systems import telling
from reverie.systems.folders import Folder
from reverie.systems.opening import USUAL, Opening
from reverie.systems.single import Single
from reverie.systems.system import System

FAMILIES = ("stable_diffusion", "sd3", "flux", "pixart", "dit", "sana", "ddpm", "ldm")
"""The folders under systems/ whose module `folder` opens PIPELINES, writes what it `holds`, and knows the way there and back."""
FILES = ("ldm", "stable_diffusion", "sd3", "flux", "dit", "ddpm", "iddpm", "adm")
"""Those, and others, with a module `single`, which recognises the publisher's file by its keys, and opens it; in this order."""


def family(name: str) -> ModuleType:
    """The module `folder` of a family of systems; its nets are imported only now."""
    return importlib.import_module(f"reverie.systems.{name}.folder")


def open_folder(path: Path, opening: Opening = USUAL) -> System:
    """A system from a folder in diffusers' layout; UserError where it is none of ours, or damaged."""
    folder = Folder(path, opening)
    kind = str(folder.index.get("_class_name"))
    known = {pipeline: module for name in FAMILIES for module in [family(name)] for pipeline in module.PIPELINES}
    if kind not in known:
        raise UserError(
            f"{path} holds a {kind}, which is none of our systems. {telling.pipeline(kind, known)} See `reverie systems`"
        )
    system: System = known[kind].open_folder(folder)
    return replace(system, about={"name": path.resolve().name, **system.about}, fingerprint=cache(lambda: folder.fingerprint))


def open_file(path: Path, opening: Opening = USUAL) -> System:
    """A system from a publisher's single file; UserError where it is none of ours, or damaged."""
    file = Single(path, opening)
    for name in FILES:
        module = importlib.import_module(f"reverie.systems.{name}.single")
        if module.recognises(file):
            system: System = module.open_file(file)
            return replace(system, about={"name": path.stem, **system.about}, fingerprint=cache(lambda: file.fingerprint))
    if said := telling.part(file.tensors):
        raise UserError(f"{path} is no whole model; {said}")
    some = ", ".join(sorted(file.tensors)[:3])
    raise UserError(f"{path} is none of our systems by its {len(file.tensors)} tensors ({some}, ...). See `reverie systems`")


def write_folder(system: System, folder: Path) -> None:
    """Writes a folder in diffusers' layout; UserError where diffusers has no such system."""
    for name in FAMILIES:
        if (module := family(name)).holds(system):
            module.write_folder(system, folder)
            return
    raise UserError(f"{system.name} cannot be written for diffusers, which has no system like it")
