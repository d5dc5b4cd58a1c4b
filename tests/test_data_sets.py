"""Files of pictures, Fashion-MNIST, folders: what is read, and what is refused."""

import gzip
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from reverie.data import Pictures, avatars, emoji, fashion_mnist, folder
from reverie.data.packed import Packed, read, write
from reverie.data.pictures import skipped
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


# -- folders


def picture(path, colour=(200, 30, 30), size=(20, 10), **kw):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **kw)
    return path


def bomb(path, side=60_000):
    """A valid header that promises 60,000 x 60,000 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))


def test_plain_folder(tmp_path):
    for k in range(3):
        picture(tmp_path / f"{k}.png", (k, 0, 0))
    found = folder(tmp_path, 16)
    assert found.images.shape == (3, 3, 16, 16)
    assert found.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert (found.caption, found.labels, found.problems) == (None, None, ())


def test_captions_beside_the_pictures_and_all_that_can_be_wrong(tmp_path):
    for name in ("good", "empty", "lonely", "binary"):
        picture(tmp_path / f"{name}.png")
    (tmp_path / "good.txt").write_text("\ufeffa red  box\n", encoding="utf-8")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "widow.txt").write_text("nothing to see")
    for name in ("cut", "garbage", "nothing", "bomb"):
        (tmp_path / f"{name}.txt").write_text("words")
    whole = picture(tmp_path / "cut.jpg", size=(200, 200)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "garbage.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"garbage" * 9)
    (tmp_path / "nothing.png").write_bytes(b"")
    bomb(tmp_path / "bomb.png")
    found = folder(tmp_path, 8)
    assert len(found) == 1
    assert found.caption(0, np.random.default_rng(0)) == "a red box"
    told = "\n".join(found.problems)
    for name in ("empty", "lonely", "binary", "widow", "cut", "garbage", "nothing", "bomb"):
        assert told.count(f"{name}.") >= 1, name
    assert len(found.problems) == 8
    assert all("\n" not in line for line in found.problems)


def test_the_pixel_limit_is_judged_by_the_header(tmp_path):
    picture(tmp_path / "a.png", size=(30, 30))
    picture(tmp_path / "b.png", size=(31, 30))
    found = folder(tmp_path, 8, max_pixels=900)
    assert len(found) == 1
    assert "over the limit of 900 pixels" in found.problems[0]


def test_metadata_jsonl(tmp_path):
    inside = tmp_path / "set"
    picture(inside / "a.png", (1, 0, 0))
    picture(inside / "deep" / "b.png", (2, 0, 0))
    picture(inside / "untold.png")
    picture(tmp_path / "secret.png")
    rows = [
        {"file_name": "deep/b.png", "text": "bee"},
        {"file_name": "a.png", "text": "ay"},
        {"file_name": "gone.png", "text": "x"},
        {"file_name": "../secret.png", "text": "x"},
        {"text": "x"},
        {"file_name": "a.png", "text": ""},
        [],
        {"file_name": 3, "text": "x"},
        {"file_name": "a\0.png", "text": "x"},
        {"file_name": f"{'long' * 75}.png", "text": "x"},
    ]
    lines = [json.dumps(row) for row in rows] + ["{broken", "", "[" * 100_000]
    (inside / "metadata.jsonl").write_text("\n".join(lines))
    found = folder(inside, 8)
    assert [found.caption(k, np.random.default_rng(0)) for k in range(2)] == ["bee", "ay"]
    assert found.images[:, 0, 0, 0].tolist() == [2, 1]
    assert len(found) == 2
    assert len(found.problems) == 11
    assert "without its picture longlong" in "\n".join(found.problems)


def test_class_folders(tmp_path):
    for name, red in (("cat", 1), ("dog", 2), ("dog", 3)):
        picture(tmp_path / name / f"{red}.png", (red, 0, 0))
    (tmp_path / "empty").mkdir()
    found = folder(tmp_path, 8)
    assert found.classes == ("cat", "dog")
    assert found.labels.tolist() == [0, 1, 1]
    assert found.caption(0, np.random.default_rng(0)) == "cat"
    assert len(found.problems) == 1


@pytest.mark.parametrize("captioned", [False, True])
def test_class_folders_with_a_picture_beside_them_are_named(tmp_path, captioned):
    for name in ("top.png", "cat/1.png", "dog/2.png", "dog/3.png"):
        picture(tmp_path / name)
    (tmp_path / "empty").mkdir()
    if captioned:
        (tmp_path / "top.txt").write_text("a top")
    found = folder(tmp_path, 8)
    assert len(found) == 1 and found.labels is None
    assert [line.split(" of its")[0] for line in found.problems] == [f"{tmp_path / 'cat'}: 1", f"{tmp_path / 'dog'}: 2"]


def test_skipped_files_are_counted_and_the_first_are_named():
    assert skipped(()) == []
    assert skipped(("a", "b")) == ["problems with the pictures: 2", "skipped: a", "skipped: b"]
    assert skipped("abc", most=1) == ["problems with the pictures: 3", "skipped: a", "... and 2 more"]


def test_orientation_transparency_and_odd_modes(tmp_path):
    turned = Image.new("RGB", (20, 20), (255, 0, 0))
    turned.paste((0, 0, 255), (0, 0, 20, 10))  # blue above, until it is turned upside down
    exif = Image.Exif()
    exif[0x0112] = 3
    turned.save(tmp_path / "a.png", exif=exif)
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(tmp_path / "b.png")
    Image.fromarray(np.full((9, 9), 65535 // 2, np.uint16)).save(tmp_path / "c.png")
    Image.new("RGB", (9, 9), (0, 255, 0)).quantize(4).save(tmp_path / "d.png")
    Image.new("CMYK", (9, 9), (0, 0, 0, 0)).save(tmp_path / "e.jpg")
    frames = [Image.new("RGB", (9, 9), c) for c in ((255, 0, 0), (0, 0, 255))]
    frames[0].save(tmp_path / "f.gif", save_all=True, append_images=frames[1:])
    Image.new("1", (9, 9), 1).save(tmp_path / "g.png")
    Image.new("LA", (9, 9), (0, 0)).save(tmp_path / "h.png")
    found = folder(tmp_path, 8)
    assert found.problems == ()
    middle = found.images[:, :, 4, 4].tolist()
    red, blue = found.images[0, 0].astype(int), found.images[0, 2].astype(int)
    assert (red[:3] > 240).all() and (blue[:3] < 15).all()
    assert (red[5:] < 15).all() and (blue[5:] > 240).all()
    assert middle[1] == [255, 255, 255]
    assert all(abs(v - 127) <= 1 for v in middle[2])
    assert middle[3] == [0, 255, 0]
    assert middle[4] == [255, 255, 255]
    assert middle[5] == [255, 0, 0]
    assert middle[6] == [255, 255, 255]
    assert middle[7] == [255, 255, 255]


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(UserError, match="--data DIR"):
        folder("")  # not the current one
    with pytest.raises(UserError, match="no folder"):
        folder(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no picture"):
        folder(tmp_path)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be decoded"):
        folder(tmp_path)
    picture(tmp_path / "a.png")
    with pytest.raises(UserError, match="size"):
        folder(tmp_path, 0)
