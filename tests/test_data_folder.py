"""Folders of pictures: captions, classes, and what is skipped."""

import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from reverie.data import folder
from reverie.data.pictures import skipped
from reverie.errors import UserError


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
    assert all("move top.png into one" in line for line in found.problems)


def test_a_broken_file_beside_class_folders_is_skipped_and_they_stay_classes(tmp_path):
    for name in ("cat/1.png", "dog/2.png"):
        picture(tmp_path / name)
    (tmp_path / "corrupt.png").write_bytes(b"nothing of a picture")
    found = folder(tmp_path, 8)
    assert found.classes == ("cat", "dog") and len(found) == 2
    assert len(found.problems) == 1 and "corrupt.png: cannot be decoded" in found.problems[0]
    picture(tmp_path / "top.png")
    mixed = folder(tmp_path, 8)
    assert len(mixed) == 1 and "move top.png and 1 more beside it" in mixed.problems[0]


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
