"""`reverie train` says what it leaves out, and refuses what names no pictures."""

import numpy as np
import pytest
from PIL import Image

from reverie.cli import main


def test_skipped_pictures_are_named_when_a_run_opens(tmp_path, capsys):
    for k in range(6):
        pixels = np.random.default_rng(k).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
    (tmp_path / "bad.png").write_bytes(b"")
    net = ["--net.channels", "16", "--net.mult", "1", "--net.attention", "--net.groups", "8", "--net.head-width", "16"]
    small = ["--size", "8", "--steps", "1", "--batch", "2", "--sampling.size", "8", "8", "--sampling.steps", "1", *net]
    main(["train", "folder", "--data", str(tmp_path), "--out", str(tmp_path / "run"), *small])
    said = capsys.readouterr().err.splitlines()
    assert "reverie: problems with the pictures: 1" in said
    assert any(line.startswith("reverie: skipped: ") and "bad.png" in line for line in said)


def test_a_folder_must_be_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("mine.png")
    with pytest.raises(SystemExit):
        main(["train", "folder"])
    assert "--data DIR" in capsys.readouterr().err
