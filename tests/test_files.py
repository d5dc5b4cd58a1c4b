"""Files are whole or not there, what cannot be written is one clear error, and nothing is left lying about."""

import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reverie import files
from reverie.cli import main
from reverie.data.folder import folder
from reverie.data.packed import Packed, write
from reverie.data.sets import AVATARS
from reverie.errors import UserError
from reverie.systems.shipped import place
from reverie.systems.toy.recipe import TOY
from reverie.tasks.evaluate import _whereabouts
from reverie.tasks.train import Session


@pytest.fixture
def small_files():
    """Files get no longer than 1 KB, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_place_below_a_file_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write.*writable"):
        files.write_whole(tmp_path / "file" / "x.png", lambda part: part.write_bytes(b"x"))
    with pytest.raises(UserError, match="it is a folder"):
        files.write_whole(tmp_path, lambda part: part.write_bytes(b"x"))


def test_an_unsearchable_folder_is_one_clear_error(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(UserError, match="Permission denied"):
        files.write_whole(tmp_path / "x", refused)


@pytest.fixture
def locked(tmp_path, monkeypatch):
    """A folder in one that may not be searched, for root neither."""
    stat = os.stat

    def refused(path, **more):
        if str(path).startswith(str(tmp_path / "locked")):
            raise PermissionError(13, "Permission denied")
        return stat(path, **more)

    monkeypatch.setattr(os, "stat", refused)
    return tmp_path / "locked" / "in"


def test_nothing_in_an_unsearchable_folder_is_a_traceback(locked):
    tasks = (lambda p: place(str(p)), folder, files.load_tensors, lambda p: files.write_whole(p / "x", lambda part: part.touch()))
    for task in tasks:
        with pytest.raises(UserError, match="locked/in"):
            task(locked)
    assert _whereabouts(AVATARS, str(locked)) == ""
    with pytest.raises(UserError, match=r"recipe\.json"):
        Session.open(replace(TOY, count=50), locked, resume=False)


def test_a_file_that_cannot_be_read_is_one_clear_error(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "model.safetensors"
    files.save_tensors(path, {"a": torch.zeros(3)}, {})
    monkeypatch.setattr(files.safetensors, "safe_open", refused)
    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(UserError, match="cannot be read"):
        files.load_tensors(path)


def test_what_a_killed_process_left_goes_with_the_next_save(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    left, other = tmp_path / f".a.{gone.pid}.part", tmp_path / f".b.{gone.pid}.part"
    going = tmp_path / f".a.{os.getppid()}.part"
    for part in (left, other, going):
        part.write_text("half")
    with pytest.raises(UserError):
        files.write_whole(tmp_path / "a", lambda part: (part / "below").read_bytes())
    assert left.exists()  # only a save that succeeded tidies up
    files.write_whole(tmp_path / "a", lambda part: part.write_text("whole"))
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "a", other, going])


def test_threads_may_write_one_path(tmp_path):
    def write(k):
        files.write_whole(tmp_path / "a", lambda part: part.write_text(str(k) * 1000))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(200)))
    assert len(set((tmp_path / "a").read_text())) <= 3 and list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_a_file_has_the_mode_of_any_other(tmp_path):
    """Also where its writer makes one for the owner alone; asking must not change the mask, which all threads share."""

    def private(part):
        part.unlink()
        os.close(os.open(part, os.O_CREAT | os.O_WRONLY, 0o600))

    (tmp_path / "usual").touch()
    files.write_whole(tmp_path / "a", private)
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_set_that_does_not_fit_leaves_the_older_one(tmp_path, small_files):
    path = tmp_path / "set.safetensors"
    path.write_text("older")
    pictures = np.random.default_rng(0).integers(0, 256, (9, 3, 16, 16), dtype=np.uint8)
    with pytest.raises(UserError, match="has room"):
        write(path, Packed("x", "", "", pictures))
    assert path.read_text() == "older" and list(tmp_path.iterdir()) == [path]


def test_avatars_are_not_drawn_for_a_place_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    def drawn(*_, **__):
        raise AssertionError("drawn in vain")

    monkeypatch.setattr("reverie.data.npm.modules", drawn)
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    for name in ("avatars", "emoji"):
        for bad in (["--out", "file/set"], ["--out", "set", "--sheet", "file/s.png"]):
            with pytest.raises(SystemExit):
                main(["data", name, *bad])
            assert "cannot write file/s" in capsys.readouterr().err


def test_nothing_heavy_is_imported():
    code = "import sys, reverie.files; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
