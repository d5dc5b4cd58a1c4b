"""Fashion-MNIST: 60,000 + 10,000 pictures of clothes, 28 x 28, grey, 10 classes.

Xiao, Rasul, Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms", arXiv:1708.07747.
Licence: MIT, (c) 2017 Zalando SE. The pictures are read from the four idx files, packed with gzip or not.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np

from reverie.data.pictures import Pictures
from reverie.errors import UserError, nearest

FOLDER = Path("/usr/share/datasets/fashion-mnist")  # where Debian's dataset-fashion-mnist puts it
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_PREFIX = {"train": "train", "test": "t10k"}
_LARGEST = 1 << 30  # bytes; a file that unpacks to more is refused before it fills the memory


def _bytes(folder: Path, name: str) -> tuple[bytes, Path]:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            break
    else:
        raise UserError(
            f"there is no {name}(.gz) in {folder}: apt-get install dataset-fashion-mnist, or name a folder with the four idx files."
        )
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is cut short or garbled ({error}): get it again.") from None
    if len(data) > _LARGEST:
        raise UserError(f"{path} unpacks to more than 1 GiB, which no Fashion-MNIST file does: get it again.")
    return data, path


def read_idx(folder: Path, name: str, dimensions: int) -> np.ndarray:
    """One idx file of unsigned bytes: magic 0, 0, 8, dimensions; big-endian sizes; data.

    Raises UserError where it is missing, cut short, too long, or not such a file.
    """
    data, path = _bytes(folder, name)
    head = 4 + 4 * dimensions
    if len(data) < head or data[:4] != bytes((0, 0, 8, dimensions)):
        raise UserError(f"{path} is not an idx file of bytes in {dimensions} dimension(s): get it again.")
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", dimensions, offset=4))
    expected = head + int(np.prod(shape, dtype=object))
    if len(data) != expected:
        raise UserError(f"{path} has {len(data)} bytes where its header promises {expected}: get it again.")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def fashion_mnist(split: str = "train", folder: str | Path | None = None) -> Pictures:
    """Fashion-MNIST with its labels. images: (60000 or 10000, 1, 28, 28).

    split: "train" or "test". folder: where the idx files are, if not where Debian puts them.
    Raises UserError where a file is missing, cut short, garbled, or does not match its labels.
    """
    if split not in _PREFIX:
        raise UserError(f"Fashion-MNIST has no split {split!r}.{nearest(split, _PREFIX)}")
    folder = Path(folder) if folder is not None else FOLDER
    images = read_idx(folder, f"{_PREFIX[split]}-images-idx3-ubyte", 3)
    labels = read_idx(folder, f"{_PREFIX[split]}-labels-idx1-ubyte", 1).astype(np.int64)
    if len(images) != len(labels) or len(images) == 0:
        raise UserError(f"{folder} has {len(images)} {split} pictures but {len(labels)} labels: get the four files again.")
    if labels.max() >= len(CLASSES):
        raise UserError(f"{folder} has a {split} label {labels.max()}, and there are only {len(CLASSES)} classes: get it again.")
    return Pictures(
        f"fashion-mnist-{split}",
        images[:, None],
        "MIT",
        "Fashion-MNIST by Han Xiao, Kashif Rasul and Roland Vollgraf, (c) 2017 Zalando SE",
        labels=labels,
        classes=CLASSES,
        attributes=tuple({"class": CLASSES[k]} for k in labels),
        caption=lambda i, rng: CLASSES[labels[i]],
    )
