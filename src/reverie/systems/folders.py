"""Models in diffusers' layout: a folder with `model_index.json` and a folder for each part, weights in one file or in shards.

Nothing is run that a folder holds, and only safetensors are read, unless pickles are allowed: see `pickles`.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reverie.codec import Latent
from reverie.encode import from_folder
from reverie.encode.clip import Clip
from reverie.encode.from_tensors import completed
from reverie.encode.t5 import T5
from reverie.errors import UserError
from reverie.files import load_sound, save_tensors, write_whole
from reverie.systems import pickles, schedulers
from reverie.systems.building import building
from reverie.systems.names import Layout, filled, taken
from reverie.systems.opening import USUAL, Opening
from reverie.systems.system import System

STEMS = ("diffusion_pytorch_model", "model")
VARIANTS = ("", ".fp16", ".bf16", ".fp32")
MOST = 16 << 20
"""Bytes of an object of JSON; the lists of shards of the largest models have some 1 MB."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How these folders hold one kind of our nets.

    name: their class. build: configuration of ours -> net. config: their configuration, and where it stands -> ours; UserError
    where we have no such net. said: ours -> theirs. layout: our configuration -> names of the weights. pointwise: names that they
    store as convolutions of 1x1, by their configuration. factor: of the latents of an autoencoder that says none.
    """

    name: str
    build: Callable[[Any], nn.Module]
    config: Callable[[Mapping[str, Any], str], Any]
    said: Callable[[Any], dict[str, Any]]
    layout: Callable[[Any], Layout]
    pointwise: Callable[[str], bool] = lambda name: False
    factor: float = 0.18215


@dataclass(frozen=True)
class Folder:
    """A folder that is read."""

    path: Path
    opening: Opening = USUAL

    @property
    def index(self) -> dict[str, Any]:
        """The parts it says it has, by their names: {"unet": ["diffusers", "UNet2DConditionModel"], ...}."""
        return self.json("model_index.json")

    def has(self, part: str) -> bool:
        """Whether it says it has this part."""
        said = self.index.get(part)
        return isinstance(said, list) and bool(said) and said[0] is not None

    def json(self, name: str) -> dict[str, Any]:
        """An object of JSON; UserError where it is not there or no object."""
        return read_json(self.path / name)

    @property
    def scheduler(self) -> dict[str, Any]:
        """What it says of the process."""
        return self.json("scheduler/scheduler_config.json")

    def config(self, part: str, ours: Callable[[Mapping[str, Any], str], Any]) -> Any:
        """Our configuration of what theirs describes; whatever is wrong with it is one UserError."""
        where = f"{self.path / part / 'config.json'}"
        said = self.json(f"{part}/config.json")
        try:
            return ours(said, where)
        except UserError:
            raise
        except Exception as error:  # whatever our configuration says of such values, they are the file's
            raise UserError(f"{where} describes no such net of ours ({type(error).__name__}: {error}): get it again") from None

    def net(self, part: str, kind: Kind) -> Any:
        """A net with its weights, as they lie in the file."""
        config, tensors, where = self.config(part, kind.config), self.tensors(part), str(self.path / part)
        with building(where, len(tensors)):
            net, layout = kind.build(config), kind.layout(config)
        return filled(net, tensors, layout, where, self.opening.partial)

    def codec(self, part: str, kind: Kind) -> Latent:
        """An autoencoder as a codec, with its scale and shift: z = (latent - shift) * scaling_factor / std, of each channel."""
        net, told = self.net(part, kind), self.json(f"{part}/config.json")
        made = latent(net, float(told.get("scaling_factor") or kind.factor), float(told.get("shift_factor") or 0.0))
        each = [told.get("latents_mean"), told.get("latents_std")]
        if None not in each:
            where, channels = self.path / part / "config.json", len(made.scale)
            if not all(isinstance(numbers, list) and len(numbers) == channels for numbers in each):
                raise UserError(f"{where}: latents_mean or latents_std is not a number for each of {channels} channels")
            made.shift.copy_(torch.tensor(each[0]))
            made.scale.mul_(torch.tensor(each[1]))
        return made

    def clip(self, number: str = "", *, projected: bool = False, **options: Any) -> Clip:
        """The part text_encoder{number}, a CLIP; projected: its pooled vector goes through a projection; options: as of `Clip`."""
        kind = "CLIPTextModelWithProjection" if projected else "CLIPTextModel"
        return Clip(*self.reader(kind, "CLIPTokenizer", number), **options)

    def t5(self, number: str = "", **options: Any) -> T5:
        """The part text_encoder{number}, a T5; options: as of `T5`."""
        return T5(*self.reader("T5EncoderModel", "AutoTokenizer", number), **options)

    def reader(self, kind: str, words: str, number: str = "") -> tuple[Any, Any]:
        """transformers' model and tokenizer of these classes: the parts text_encoder{number} and tokenizer{number}."""
        part, place = f"text_encoder{number}", self.path / f"text_encoder{number}"
        self.json(f"{part}/config.json")
        tensors = self.tensors(part)
        with building(str(place), len(tensors), kind):
            net = from_folder.built(kind, place)
        tensors = from_folder.called(net, tensors, str(place))
        filled(net, tensors, from_folder.plain, str(place), self.opening.partial)
        return completed(net), from_folder.words(words, self.path / f"tokenizer{number}", net)

    def tensors(self, part: str) -> dict[str, Tensor]:
        """All tensors of a part, from its one file or its shards."""
        out: dict[str, Tensor] = {}
        for file in self.files(part):
            out |= pickles.tensors(file) if pickles.is_pickle(file) else load_sound(file)
        return out

    def files(self, part: str) -> list[Path]:
        """The files that hold the weights of a part, in order; a set of shards is whole."""
        place = self.path / part
        for stem in STEMS:
            for variant in VARIANTS:
                if (file := place / f"{stem}{variant}.safetensors").is_file():
                    return [file]
                if (file := place / f"{stem}.safetensors.index{variant}.json").is_file():
                    return _shards(place, read_json(file), file)
        if found := sorted(p for p in place.glob("*") if pickles.is_pickle(p)):
            pickles.refuse_unless(self.opening.allow_pickle, found[0])
            return found
        raise UserError(f"{place} holds no weights: {STEMS[0]}.safetensors or {STEMS[1]}.safetensors is missing")

    @property
    def weights(self) -> dict[str, list[Path]]:
        """The files of every part that has weights."""
        stems = {file.parent.name for file in self.path.glob("*/*") if file.name.startswith(STEMS)}
        return {part: self.files(part) for part in sorted(stems & self.index.keys())}

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the weights of all parts."""
        return fingerprint([file for files in self.weights.values() for file in files])


def is_folder(path: Path) -> bool:
    """Whether a path is a folder in this layout."""
    return os.path.isfile(path / "model_index.json")  # Path.is_file raises in a folder that is not ours to read


def read_json(path: Path) -> dict[str, Any]:
    """An object of JSON; UserError where it is not there or no object."""
    try:
        if path.stat().st_size > MOST:
            raise UserError(f"{path} has more than {MOST >> 20} MB, and no configuration has: get it again")
        made = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is not there: the download of the model is not complete") from None
    except UserError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): get it again") from None
    if not isinstance(made, dict):
        raise UserError(f"{path} holds no object of JSON: get it again")
    return made


def write_json(path: Path, said: Mapping[str, Any]) -> None:
    """An object as JSON."""
    write_whole(path, lambda part: part.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8"))


def latent(net: Any, factor: float, shift: float) -> Latent:
    """A codec around an autoencoder: z = (latent - shift) * factor."""
    with torch.device("meta"):
        codec = Latent(net.config)
    codec.net = net
    channels = len(codec.scale)
    codec.scale, codec.shift = torch.full((channels,), 1 / factor), torch.full((channels,), shift)
    return codec.eval().requires_grad_(False)


def _shards(part: Path, said: Mapping[str, Any], file: Path) -> list[Path]:
    places = said.get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise UserError(f"{file} has no weight_map: get it again")
    names = sorted(set(places.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise UserError(f"{file} names the shard {name!r}, which is no safetensors file beside it")
        if not (part / name).is_file():
            raise UserError(f"{part / name} is not there: {file.name} lists it, so the download of the model is not complete")
    return [part / name for name in names]


def fingerprint(paths: list[Path]) -> str:
    """SHA-256 of files, one after the other; of a single file it is what other tools call the hash of the model."""
    hasher = hashlib.sha256()
    for path in paths:
        with path.open("rb") as handle:
            while block := handle.read(1 << 22):
                hasher.update(block)
    return hasher.hexdigest()


@dataclass
class Saved:
    """A folder that is being written: the parts so far, and the scheduler, which is the same for all systems."""

    folder: Path
    pipeline: str
    system: System
    parts: dict[str, Any] = field(default_factory=dict)

    def net(self, name: str, net: Any, kind: Kind, **more: Any) -> None:
        """A net as diffusers reads it; more: of its configuration."""
        said = {"_class_name": kind.name, **kind.said(net.config), **more}
        weights = taken(net, kind.layout(net.config), kind.pointwise)
        save_tensors(self.folder / name / "diffusion_pytorch_model.safetensors", weights, {})
        write_json(self.folder / name / "config.json", said)
        self.parts[name] = ["diffusers", kind.name]

    def codec(self, name: str, codec: Latent, kind: Kind) -> None:
        """An autoencoder as diffusers reads it, which has one scale and one shift for all channels."""
        if len(set(codec.scale.tolist())) > 1 or len(set(codec.shift.tolist())) > 1:
            raise UserError("diffusers knows one scale and one shift for all channels of a latent: this codec cannot be written")
        shift = {"shift_factor": float(codec.shift[0])} if codec.shift.any() else {}  # not all kinds know one
        self.net(name, codec.net, kind, scaling_factor=1 / float(codec.scale[0]), **shift)

    def encoder(self, read: Any, number: str = "") -> None:
        """A text encoder and its tokenizer; none is said to be none."""
        nothing = {f"{part}{number}": [None, None] for part in ("text_encoder", "tokenizer")}
        self.parts |= nothing if read is None else from_folder.write(read, self.folder, number)

    def close(self, scheduler: Mapping[str, Any] | None = None, **more: Any) -> None:
        """The folder is whole: its index is written last. scheduler: what its configuration says otherwise."""
        said = {**schedulers.written(self.system.denoiser, self.system.defaults.grid), **(scheduler or {})}
        write_json(self.folder / "scheduler" / "scheduler_config.json", said)
        parts = self.parts | {"scheduler": ["diffusers", said["_class_name"]]} | more
        write_json(self.folder / "model_index.json", {"_class_name": self.pipeline, **parts})
