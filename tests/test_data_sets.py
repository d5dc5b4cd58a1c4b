"""Files of pictures, and Fashion-MNIST: what is read, and what is refused."""

import gzip
import struct

import numpy as np
import pytest

from reverie.data import Pictures, avatars, emoji, fashion_mnist
from reverie.data.packed import Packed, read, write
from reverie.errors import UserError


def colours(n, size=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 3, size, size), dtype=np.uint8)


# -- Pictures


def test_split_is_fixed_and_keeps_everything_together():
    n = 50
    images = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 1, 4, 4))
    attributes = tuple({"k": str(k)} for k in range(n))
    whole = Pictures("x", images, "CC0", labels=np.arange(n), attributes=attributes, caption=lambda i, rng: f"number {i}")
    train, held = whole.split(10)
    assert (len(train), len(held)) == (40, 10)
    assert set(train.labels) | set(held.labels) == set(range(n))
    assert (held.labels == whole.split(10)[1].labels).all()
    for k in range(10):
        row = held.labels[k]
        assert held.images[k, 0, 0, 0] == row
        assert held.attributes[k] == {"k": str(row)}
        assert held.caption(k, np.random.default_rng(0)) == f"number {row}"
    with pytest.raises(UserError, match="hold out"):
        whole.split(50)


def test_pad_centres():
    small = Pictures("x", np.full((2, 1, 28, 28), 9, np.uint8), "CC0").pad(32)
    assert small.images.shape == (2, 1, 32, 32)
    assert (small.images[:, :, 2:30, 2:30] == 9).all()
    assert small.images.sum() == 2 * 28 * 28 * 9
    with pytest.raises(UserError, match="larger"):
        small.pad(16)


def test_a_sheet_holds_the_pictures():
    sheet = Pictures("x", np.full((5, 1, 10, 10), 7, np.uint8), "CC0").sheet(4)
    assert sheet.size == (26, 26)
    assert sheet.getpixel((5, 5)) == (7, 7, 7)


# -- packed files


def packed(n=6):
    attributes = tuple({"style": "micah", "hair": "bald"} if k % 2 else {"style": "micah"} for k in range(n))
    values = {"style": ["micah"], "hair": ["short", "bald"]}
    return Packed("avatars", "CC0", "somebody", colours(n), attributes, labels=np.arange(n), classes=("a", "b"), values=values)


def test_a_file_returns_what_was_written(tmp_path):
    path = tmp_path / "new" / "a.safetensors"
    before = packed()
    write(path, before)
    after = read(path)
    assert (after.images == before.images).all()
    assert after.attributes == before.attributes
    assert (after.labels == before.labels).all()
    assert (after.name, after.licence, after.credit, after.classes) == ("avatars", "CC0", "somebody", ("a", "b"))
    assert list(path.parent.iterdir()) == [path]


def test_many_values_of_one_attribute(tmp_path):
    values = {"label": [f"thing {k}" for k in range(700)]}
    attributes = tuple({"label": f"thing {k}"} for k in (0, 255, 699))
    write(tmp_path / "a", Packed("x", "", "", colours(3), attributes, values=values))
    assert read(tmp_path / "a").attributes == attributes


@pytest.mark.parametrize("keep", [0, 5, 100, 900, -1])
def test_a_file_cut_short_is_refused(tmp_path, keep):
    path = tmp_path / "a.safetensors"
    write(path, packed())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="cut short"):
        avatars(path)


def test_garbled_pictures_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    write(path, packed(), webp=[b"RIFFnonsense"] * 6)
    with pytest.raises(UserError, match="garbled"):
        avatars(path)


def test_files_of_something_else_are_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "w.safetensors")
    (tmp_path / "w.txt").write_text("hello")
    write(tmp_path / "plain", Packed("x", "", "", colours(2)))
    for name, what in (
        ("w.safetensors", "not of pictures"),
        ("w.txt", "not a picture file"),
        ("plain", "not avatars"),
        ("none", "no picture file"),
    ):
        with pytest.raises(UserError, match=what):
            avatars(tmp_path / name)
    write(tmp_path / "portraits", packed())
    with pytest.raises(UserError, match="not emoji"):
        emoji(tmp_path / "portraits")
    with pytest.raises(UserError, match="cannot write"):
        write(tmp_path / "w.txt" / "a", packed())


# -- Fashion-MNIST


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def clothes(tmp_path):
    images = colours(12, 28)[:, 0]
    labels = np.arange(12, dtype=np.uint8) % 10
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(labels))
    return tmp_path, images, labels


def test_fashion_mnist_from_idx_files(clothes):
    path, images, labels = clothes
    found = fashion_mnist("train", path)
    assert found.images.shape == (12, 1, 28, 28)
    assert (found.images[:, 0] == images).all()
    assert (found.labels == labels).all()
    assert found.caption(9, np.random.default_rng(0)) == "ankle boot"
    assert found.pad(32).images.shape == (12, 1, 32, 32)


def test_a_missing_fashion_mnist_says_how_to_get_it(clothes):
    path, *_ = clothes
    with pytest.raises(UserError, match="apt-get install dataset-fashion-mnist"):
        fashion_mnist("test", path)
    with pytest.raises(UserError, match="Did you mean 'train'"):
        fashion_mnist("trian", path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:-7],
        lambda b: b[: len(b) // 2],
        lambda b: b[:3],
        lambda b: b"",
        lambda b: b"\x1f\x8b" + b"garbage" * 20,
        lambda b: gzip.compress(idx(colours(12, 28)[:, 0])[:-1]),
        lambda b: gzip.compress(idx(colours(12, 28)[:, 0]) + b"x"),
        lambda b: gzip.compress(b"\x00\x00\x0d\x03" + bytes(200)),
        lambda b: gzip.compress(bytes((0, 0, 8, 3)) + b"\xff" * 12),
        lambda b: gzip.compress(idx(colours(11, 28)[:, 0])),
        lambda b: b[:40] + bytes(60) + b[100:],
    ],
)
def test_damaged_idx_files_are_refused(clothes, damage):
    path, *_ = clothes
    file = path / "train-images-idx3-ubyte.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match="again"):
        fashion_mnist("train", path)


def test_labels_without_a_class_are_refused(clothes):
    path, *_ = clothes
    (path / "train-labels-idx1-ubyte").write_bytes(idx(np.full(12, 10, np.uint8)))
    with pytest.raises(UserError, match="label 10"):
        fashion_mnist("train", path)
