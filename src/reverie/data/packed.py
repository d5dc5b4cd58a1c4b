"""One file for a set of pictures: lossless WebP bytes end to end, and what is known of each, in a safetensors file.

tensors    pictures (B,) uint8, all WebP files one after another; offsets (N + 1,) int64;
           attributes (N, A) uint8 or uint16, an index into the values of each attribute, the largest number where absent;
           labels (N,) int64 where there are classes
metadata   format "reverie-pictures-1"; name, licence, credit; JSON of the attributes' values, of the classes, and of `extra`
"""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reverie.errors import UserError
from reverie.files import write_whole

FORMAT = "reverie-pictures-1"


def encode(image: np.ndarray, method: int = 4) -> bytes:
    """(3, H, W) uint8 to the bytes of a lossless WebP."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(out, "WEBP", lossless=True, quality=70, method=method)
    return out.getvalue()


@dataclass(frozen=True)
class Packed:
    """What a file holds. images: (N, 3, H, W) uint8. extra: JSON of the writer's own (captions, for instance)."""

    name: str
    licence: str
    credit: str
    images: np.ndarray
    attributes: tuple[Mapping[str, str], ...] | None = None
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    extra: Any = None
    values: Mapping[str, Sequence[str]] = field(default_factory=dict)


def _codes(attributes: Sequence[Mapping[str, str]], values: Mapping[str, Sequence[str]]) -> np.ndarray:
    kind = np.uint8 if max(map(len, values.values()), default=0) < 255 else np.uint16
    absent = np.iinfo(kind).max
    codes = np.full((len(attributes), len(values)), absent, kind)
    for column, (name, known) in enumerate(values.items()):
        index = {value: k for k, value in enumerate(known)}
        codes[:, column] = [index[a[name]] if name in a else absent for a in attributes]
    return codes


def write(path: str | Path, packed: Packed, webp: Iterable[bytes] | None = None) -> None:
    """Writes the set: the whole file or none of it.

    webp: the pictures already encoded, where the caller has done so. Raises UserError where the place cannot be written or is full.
    """
    from safetensors.numpy import save_file

    blobs = [encode(image) for image in packed.images] if webp is None else list(webp)
    tensors: dict[str, np.ndarray] = {
        "pictures": np.frombuffer(b"".join(blobs), np.uint8),
        "offsets": np.cumsum([0, *map(len, blobs)], dtype=np.int64),
    }
    metadata = {"format": FORMAT, "name": packed.name, "licence": packed.licence, "credit": packed.credit}
    metadata |= {"values": json.dumps({k: list(v) for k, v in packed.values.items()}), "classes": json.dumps(packed.classes)}
    metadata["extra"] = json.dumps(packed.extra)
    if packed.attributes is not None:
        tensors["attributes"] = _codes(packed.attributes, packed.values)
    if packed.labels is not None:
        tensors["labels"] = packed.labels.astype(np.int64)
    write_whole(Path(path), lambda part: save_file(tensors, part, metadata=metadata))


def _decode(blob: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    data = blob.tobytes()
    first = Image.open(io.BytesIO(data[offsets[0] : offsets[1]]), formats=["WEBP"])
    images = np.empty((len(offsets) - 1, 3, first.height, first.width), np.uint8)
    for k in range(len(images)):
        with Image.open(io.BytesIO(data[offsets[k] : offsets[k + 1]]), formats=["WEBP"]) as picture:
            images[k] = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    return images


def _named(codes: np.ndarray, values: Mapping[str, Sequence[str]]) -> tuple[dict[str, str], ...]:
    absent = int(np.iinfo(codes.dtype).max)
    names = list(values)
    tables = [list(values[n]) for n in names]
    return tuple({n: table[c] for n, table, c in zip(names, tables, row, strict=True) if c != absent} for row in codes.tolist())


def _tensors(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    from safetensors import SafetensorError, safe_open

    remedy = "make it again with `reverie data`."
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError:
        raise UserError(f"there is no picture file {path}: {remedy}") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is cut short or not a picture file ({error}): {remedy}") from None
    if metadata.get("format") != FORMAT or not {"pictures", "offsets"} <= set(tensors):
        raise UserError(f"{path} is a safetensors file but not of pictures (format is not {FORMAT}): {remedy}")
    return metadata, tensors


def read(path: str | Path) -> Packed:
    """A file written by `write`, decoded. Raises UserError where it is missing, cut short, garbled, or something else."""
    path = Path(path)
    metadata, tensors = _tensors(path)
    try:
        values = json.loads(metadata["values"])
        return Packed(
            metadata["name"],
            metadata["licence"],
            metadata["credit"],
            _decode(tensors["pictures"], tensors["offsets"]),
            _named(tensors["attributes"], values) if "attributes" in tensors else None,
            tensors.get("labels"),
            tuple(json.loads(metadata["classes"])),
            json.loads(metadata["extra"]),
            values,
        )
    except (OSError, KeyError, IndexError, ValueError, SyntaxError) as error:
        raise UserError(f"{path} is garbled ({type(error).__name__}: {error}): make it again with `reverie data`.") from None
