"""Models in diffusers' layout: a folder with `model_index.json` and a folder for each part, weights in one file or in shards.

Only safetensors are read, and nothing is run that a folder holds.
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

from reverie.encode import from_folder
from reverie.encode.clip import Clip
from reverie.encode.t5 import T5
from reverie.errors import UserError
from reverie.files import load_tensors, save_tensors, write_whole
from reverie.systems import schedulers
from reverie.systems.names import Layout, given, taken
from reverie.systems.system import System

STEMS = ("diffusion_pytorch_model", "model")
VARIANTS = ("", ".fp16", ".bf16", ".fp32")
PICKLES = (".bin", ".pt", ".ckpt", ".pth")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How these folders hold one kind of our nets.

    name: their class. build: configuration of ours -> net. config: their configuration, and where it stands -> ours; UserError
    where we have no such net. said: ours -> theirs. layout: our configuration -> names of the weights. pointwise: names that they
    store as convolutions of 1x1, by their configuration.
    """

    name: str
    build: Callable[[Any], nn.Module]
    config: Callable[[Mapping[str, Any], str], Any]
    said: Callable[[Any], dict[str, Any]]
    layout: Callable[[Any], Layout]
    pointwise: Callable[[str], bool] = lambda name: False


def is_folder(path: Path) -> bool:
    """Whether a path is a folder in this layout."""
    return os.path.isfile(path / "model_index.json")  # Path.is_file raises in a folder that is not ours to read


def index(path: Path) -> dict[str, Any]:
    """The parts that the folder says it has, by their names: {"unet": ["diffusers", "UNet2DConditionModel"], ...}."""
    return read_json(path / "model_index.json")


def read_json(path: Path) -> dict[str, Any]:
    """An object of JSON; UserError where it is not there or no object."""
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is not there: the download of the model is not complete") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): get it again") from None
    if not isinstance(made, dict):
        raise UserError(f"{path} holds no object of JSON: get it again")
    return made


def write_json(path: Path, said: Mapping[str, Any]) -> None:
    """An object as JSON."""
    write_whole(path, lambda part: part.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8"))


def read_net(part: Path, kind: Kind) -> Any:
    """A net with its weights, ready for use, in float32."""
    said = read_json(part / "config.json")
    config = asked(kind, said, f"{part / 'config.json'}")
    with torch.device("meta"):
        net = kind.build(config)
    return filled(net, weights(part), kind.layout(config), str(part))


def asked(kind: Kind, said: Mapping[str, Any], where: str) -> Any:
    """Our configuration of what theirs describes; whatever is wrong with it is one UserError."""
    try:
        return kind.config(said, where)
    except UserError:
        raise
    except Exception as error:  # whatever our configuration says of such values, they are the file's
        raise UserError(f"{where} describes no {kind.name} of ours ({type(error).__name__}: {error}): get it again") from None


def write_net(net: Any, part: Path, kind: Kind) -> None:
    """The net as diffusers reads it."""
    config = net.config
    said = {"_class_name": kind.name, **kind.said(config)}
    save_tensors(part / "diffusion_pytorch_model.safetensors", taken(net, kind.layout(config), kind.pointwise), {})
    write_json(part / "config.json", said)


@dataclass
class Saved:
    """A folder that is being written: the parts so far, and the scheduler, which is the same for all systems."""

    folder: Path
    pipeline: str
    system: System
    parts: dict[str, Any] = field(default_factory=dict)

    def part(self, name: str, kind: Kind) -> Path:
        """Where a net belongs."""
        self.parts[name] = ["diffusers", kind.name]
        return self.folder / name

    def encoder(self, read: Clip | T5 | None, name: str) -> None:
        """A text encoder and its tokenizer; none is said to be none."""
        nothing = {f"{part}{name}": [None, None] for part in ("text_encoder", "tokenizer")}
        self.parts |= nothing if read is None else from_folder.write(read, self.folder, name)

    def close(self, **more: Any) -> None:
        """The folder is whole: its index is written last."""
        said = schedulers.written(self.system.denoiser, self.system.defaults.grid)
        write_json(self.folder / "scheduler" / "scheduler_config.json", said)
        parts = self.parts | {"scheduler": ["diffusers", said["_class_name"]]} | more
        write_json(self.folder / "model_index.json", {"_class_name": self.pipeline, **parts})


def filled(net: nn.Module, tensors: Mapping[str, Tensor], layout: Layout, what: str) -> Any:
    """Their weights in our net, in float32, ready for use."""
    ours = given(net, tensors, layout, what)
    for key, value in ours.items():
        if not value.is_floating_point():
            raise UserError(f"{what}: {layout(key)} holds {value.dtype} and no numbers with fractions: get it again")
        if not bool(value.isfinite().all()):
            raise UserError(f"{what}: {layout(key)} holds NaN or infinity: the file is damaged, get it again")
    net.load_state_dict({key: value.float() for key, value in ours.items()}, assign=True)
    return net.eval().requires_grad_(False)


def weights(part: Path) -> dict[str, Tensor]:
    """All tensors of a part, from its one file or its shards."""
    out: dict[str, Tensor] = {}
    for file in files(part):
        out |= load_tensors(file)[0]
    return out


def files(part: Path) -> list[Path]:
    """The files that hold the weights of a part, in order; a set of shards is whole."""
    for stem in STEMS:
        for variant in VARIANTS:
            if (file := part / f"{stem}{variant}.safetensors").is_file():
                return [file]
            if (file := part / f"{stem}.safetensors.index{variant}.json").is_file():
                return _shards(part, read_json(file), file)
    found = sorted(p.name for p in part.glob("*")) if part.is_dir() else []
    if pickled := [name for name in found if name.endswith(PICKLES)]:
        raise UserError(
            f"{part} holds its weights in {pickled[0]} only, a pickle, which may run anything: get the safetensors of it, or "
            "convert it with `reverie convert --allow-pickle`"
        )
    raise UserError(f"{part} holds no weights: {STEMS[0]}.safetensors or {STEMS[1]}.safetensors is missing")


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
