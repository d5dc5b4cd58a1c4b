"""Data sets in the TOML of kohya's scripts, read as they are.

[general] holds for every [[datasets]], that for each of its [[datasets.subsets]], unless they say otherwise. Paths are relative to
the file. A field that does nothing here (`WITHOUT`) is said in one line each, where it would do something there; one that is not
known there either is an error. What a file does not say is as the caller has it, not as those scripts do.
"""

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reverie.data.captions import Saying
from reverie.data.shapes import Shapes
from reverie.data.subsets import Subset
from reverie.errors import UserError, nearest

TOML = ".toml"

SUBSET = {
    "num_repeats": int, "shuffle_caption": bool, "caption_separator": str, "keep_tokens": int, "keep_tokens_separator": str,
    "caption_prefix": str, "caption_suffix": str, "caption_dropout_rate": float, "caption_tag_dropout_rate": float,
    "flip_aug": bool, "caption_extension": str, "class_tokens": str, "alpha_mask": bool,
}  # fmt: skip
"""Of a subset, or of all in a data set or in the file."""
DATASET = {
    "batch_size": int, "resolution": list, "enable_bucket": bool, "min_bucket_reso": int, "max_bucket_reso": int,
    "bucket_reso_steps": int, "bucket_no_upscale": bool, "validation_split": float,
}  # fmt: skip
"""Of a data set, or of all in the file."""
OWN = {"image_dir": str, "is_reg": bool, "conditioning_data_dir": str}
"""Of a subset alone."""
WITHOUT = {
    "color_aug": "colours are left as they are",
    "face_crop_aug_range": "the middle of a picture is cut out",
    "random_crop": "the middle of a picture is cut out",
    "resize_interpolation": "pictures are scaled by Lanczos' filter",
    "secondary_separator": "a caption has one separator",
    "enable_wildcard": "a caption is said as it is",
    "token_warmup_min": "all tags are said from the beginning",
    "token_warmup_step": "all tags are said from the beginning",
    "caption_dropout_every_n_epochs": "captions are left out by chance alone",
    "network_multiplier": "the changes learn at weight 1",
    "validation_seed": "what is held out is fixed by the data",
    "cache_info": "pictures are read again each time",
    "custom_attributes": "nothing reads them",
    "max_token_length": "the model's encoder sets it",
    "debug_dataset": "`reverie data` shows pictures",
}
"""Fields that do nothing here, and why."""
PLAIN = {"token_warmup_min": 1, "network_multiplier": 1}
"""Values at which they do nothing there either."""
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", list: "a number or [width, height]"}


@dataclass(frozen=True)
class Table:
    """One table of the file, under the name it has there."""

    where: str
    values: Mapping[str, Any]

    def check(self, known: Mapping[str, type]) -> list[str]:
        """What is said of fields that do nothing here; UserError of one that is unknown, or of another kind."""
        notes = []
        for name, value in self.values.items():
            if name == "metadata_file":
                raise UserError(f"{self.where}: metadata_file is not read here: put a metadata.jsonl into the folder, or captions")
            if name in WITHOUT:
                if value and value != PLAIN.get(name):
                    notes.append(f"{self.where}: {name} does nothing here, {WITHOUT[name]}")
            elif name not in known:
                raise UserError(f"{self.where}: there is no field '{name}' here.{nearest(name, known)}")
            elif not _fits(value, known[name]):
                raise UserError(f"{self.where}: {name} is {value!r:.60}; it is {KINDS[known[name]]}")
        return notes


def _fits(value: Any, kind: type) -> bool:
    if kind is list:
        pair = value if isinstance(value, list) and len(value) == 2 else [value]
        return all(_fits(side, int) for side in pair)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _loaded(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            found = tomllib.load(file)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): name a data set in TOML, or a folder of pictures") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is no TOML: {str(error).splitlines()[0]}") from None
    for name in found:
        if name not in ("general", "datasets"):
            raise UserError(f"{path}: there is no table '{name}' here.{nearest(name, ('general', 'datasets'))}")
    if not isinstance(found.get("general", {}), dict) or not _tables(found.get("datasets")):
        raise UserError(f"{path} has no data set: give [[datasets]], and in it [[datasets.subsets]] with an image_dir")
    return found


def _tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _sets(path: Path) -> tuple[list[tuple[Mapping[str, Any], list[Table]]], list[str]]:
    """(what holds for a data set, the tables of its subsets), each; and what is said of fields that do nothing."""
    found = _loaded(path)
    common = Table(f"{path}: [general]", found.get("general", {}))
    notes = common.check(SUBSET | DATASET)
    out: list[tuple[Mapping[str, Any], list[Table]]] = []
    for k, values in enumerate(found["datasets"], 1):
        where = f"{path}: [[datasets]] {k}"
        if not _tables(values.get("subsets")):
            raise UserError(f"{where} has no [[datasets.subsets]]: give one with an image_dir")
        own = {name: value for name, value in values.items() if name != "subsets"}
        notes += Table(where, own).check(SUBSET | DATASET)
        tables = [Table(f"{where}, subset {i}", table) for i, table in enumerate(values["subsets"], 1)]
        for table in tables:
            notes += table.check(SUBSET | OWN)
            if "image_dir" not in table.values:
                raise UserError(f"{table.where} has no image_dir: name its folder of pictures")
        out.append(({**common.values, **own}, tables))
    return out, notes


def batch_size(path: Path) -> int | None:
    """The pictures of a step, where the file says it. UserError where its data sets differ in that."""
    said = {values["batch_size"] for values, _ in _sets(path)[0] if "batch_size" in values}
    if len(said) > 1:
        raise UserError(f"{path}: its data sets have batches of {' and '.join(map(str, sorted(said)))}: give one batch_size")
    return said.pop() if said else None


def read_toml(path: Path, usual: Subset) -> tuple[Sequence[Subset], Sequence[str]]:
    """The subsets, which are as `usual` where the file does not say; and what is said of fields that do nothing, one line each."""
    sets, notes = _sets(path)
    out = []
    for common, tables in sets:
        for table in tables:
            try:
                out.append(_subset(path.parent, {**common, **table.values}, usual))
            except UserError as error:
                raise UserError(f"{table.where}: {error}") from None
    return out, notes


def _subset(home: Path, said: Mapping[str, Any], usual: Subset) -> Subset:
    regular, masks = said.get("is_reg", False), said.get("conditioning_data_dir")
    folder = home / said["image_dir"]
    for place in (folder, *([home / masks] if masks else ())):
        if not os.path.isdir(place):  # Path.is_dir raises in a folder that is not ours to read
            raise UserError(f"there is no folder {place}: paths are relative to the file")
    return replace(
        usual,
        folder=folder,
        shapes=_shapes(said, usual.shapes),
        repeats=said.get("num_repeats", 1),
        name=said.get("class_tokens", ""),
        regular=regular,
        suffix=said.get("caption_extension", ""),
        saying=_saying(said, replace(usual.saying, template=Saying().template) if regular else usual.saying),
        drop=said.get("caption_dropout_rate"),
        flip=said.get("flip_aug", usual.flip),
        masks=home / masks if masks else None,
        alpha=said.get("alpha_mask", False),
        held=said.get("validation_split"),
    )


def _saying(said: Mapping[str, Any], usual: Saying) -> Saying:
    names = {
        "shuffle_caption": "shuffle", "keep_tokens": "keep", "keep_tokens_separator": "keep_mark", "caption_separator": "separator",
        "caption_prefix": "prefix", "caption_suffix": "suffix", "caption_tag_dropout_rate": "drop_tags",
    }  # fmt: skip
    return replace(usual, **{ours: said[theirs] for theirs, ours in names.items() if theirs in said})


def _shapes(said: Mapping[str, Any], usual: Shapes) -> Shapes:
    size, step = said.get("resolution"), said.get("bucket_reso_steps", usual.step)
    if step < 1 or step % usual.step:
        raise UserError(f"bucket_reso_steps is {step}; this model's pictures have sides in steps of {usual.step}: give a multiple")
    width, height = usual.size[::-1] if size is None else (size * 2)[:2] if isinstance(size, list) else (size, size)
    return Shapes(
        size=(height, width),
        buckets=said.get("enable_bucket", usual.buckets),
        least=said.get("min_bucket_reso", 0),
        most=said.get("max_bucket_reso", 0),
        step=step,
        enlarge=not said.get("bucket_no_upscale", False),
    )
