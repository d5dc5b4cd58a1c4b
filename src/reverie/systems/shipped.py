"""The models that come with the package."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from reverie.errors import UserError, nearest
from reverie.files import metadata
from reverie.measure.reader import Reader
from reverie.solve import Tuned
from reverie.systems import memory, telling
from reverie.systems.embeddings import given_embeddings
from reverie.systems.folders import is_folder
from reverie.systems.foreign import open_file, open_folder
from reverie.systems.lora import given_loras
from reverie.systems.opening import USUAL, Opening
from reverie.systems.pickles import is_pickle
from reverie.systems.placing import placed
from reverie.systems.system import Part, System, refined
from reverie.systems.weights import CARD, load, load_any

FOLDER = Path(__file__).parent
SHIPPED = {name: FOLDER / "avatars" / f"{name}.safetensors" for name in ("reverie-avatars", "reverie-avatars-fast")}
READER_FILES = {name: FOLDER / "readers" / f"{name}.safetensors" for name in ("avatars", "fashion", "emoji")}
READERS = {name: file for name, file in READER_FILES.items() if file.exists()}
"""The judges that ship; that of emoji does not yet."""


def open_model(
    name: str, opening: Opening = USUAL, refiner: str = "", loras: Sequence[str] = (), embeddings: Sequence[str] = ()
) -> System:
    """A shipped model by name, or by path: a file of ours, a publisher's, or a folder in diffusers' layout; ready for use.

    refiner: a model that draws the end of the way, as Stable Diffusion XL's. loras: files of changes of its weights, each as
    "FILE" or "FILE:0.8". embeddings: files of learnt words, each as "FILE" or "NAME=FILE".
    """
    places = [place(each) for each in (name, refiner) if each]
    if refiner and not os.path.exists(places[1]):  # before the first is loaded
        raise UserError(f"the refiner {places[1]} is not there: check the path")
    system = read_model(name, opening)
    if loras:
        system = given_loras(system, loras, opening.partial)  # as the weights lie in the files, before they are placed
    if embeddings:
        system = given_embeddings(system, embeddings, opening)
    memory.check(memory.counted(places[0], opening), opening, name, memory.drawing(system, opening.tile))
    if refiner:
        second = read_model(refiner, opening)
        system = refined(system, replace(second, about={**second.about, "given": refiner}))
    return placed(system, opening)


def read_model(name: str, opening: Opening = USUAL) -> System:
    """The same as it lies in its files: its weights are of their types, and not yet where they compute."""
    path = place(name)
    opening.check()
    memory.check(memory.counted(path, opening), opening, name)
    if is_folder(path):
        system = open_folder(path, opening)
    elif is_pickle(path) or (os.path.isfile(path) and CARD not in metadata(path)):
        system = open_file(path, opening)
    else:
        system = load(path)
    return replace(system, tuned=tuned(system, path))


def open_reader(name: str | Path) -> Reader:
    """A judge that comes with the package ("avatars", "fashion"), or one in a file that `reverie train avatars-reader` made."""
    path = READERS.get(str(name), Path(name))
    if not path.suffix:
        raise UserError(f"no reader is called '{name}'.{nearest(str(name), READERS)}")
    part = load_any(path)
    if not isinstance(part, Part) or not hasattr(part.reader, "read"):
        raise UserError(f"{path} is not a reader: make one with `reverie train avatars-reader` or `reverie train fashion-reader`")
    reader: Reader = part.reader
    return reader


def beside(path: str | Path) -> Path:
    """The file of the solvers that were tuned to a model: beside a file, or in a folder."""
    found = place(str(path))
    return found / "model.tuned.json" if is_folder(found) else found.with_suffix(".tuned.json")


def tuned(system: System, path: Path) -> dict[int, Tuned]:
    """What `reverie tune` found for these very weights; none where it was not asked, or for other weights."""
    if not os.path.exists(file := beside(path)):
        return {}
    try:
        record = json.loads(file.read_text())
        solvers = {int(n): Tuned(tuple(s["knots"]), tuple(map(tuple, s["weights"]))) for n, s in record["solvers"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} cannot be used ({error!r}): make it anew with `reverie tune`, or delete it") from None
    return solvers if record.get("model") == system.hash else {}


def lies(name: str) -> Path:
    """The folder that a model lies in; of one that ships, the current one."""
    return Path() if name in SHIPPED else place(name).parent


def fast(name: str) -> str:
    """The variant of a model that draws in a few steps: one that ships, or NAME-fast.safetensors beside its file."""
    if (shipped := f"{name}-fast") in SHIPPED:
        return shipped
    path = place(name)
    own = path.with_name(f"{path.stem}-fast.safetensors")
    if name not in SHIPPED and os.path.isfile(own):
        return str(own)
    where = "" if name in SHIPPED else f", and keep it as {own}"
    raise UserError(f"{name} has no variant of a few steps: make one with `reverie distill --teacher {name}`{where}")


def place(name: str) -> Path:
    """The file of a shipped model, of the folder of a run, or the file itself."""
    if not isinstance(name, (str, Path)) or not str(name):
        raise UserError(f"a model is {name!r}: give the name of a shipped one, or a path")
    name = str(name)
    if name in SHIPPED:
        return SHIPPED[name]
    path = Path(name)
    if os.path.isdir(path):  # where Path would raise, in a folder that is not ours to read, os.path says no
        if is_folder(path) or os.path.isfile(path / "model.safetensors") or not (said := telling.folder(path)):
            return path if is_folder(path) else path / "model.safetensors"
        raise UserError(said)
    if said := telling.file(path) if os.path.isfile(path) else telling.absent(name):
        raise UserError(said)
    if not path.suffix and not os.path.exists(path):
        raise UserError(f"no model is called '{name}', and no such file exists.{nearest(name, SHIPPED)}")
    return path
