"""JavaScript packages are the pinned ones, and whole."""

import json
import os
import sys
from pathlib import Path

import pytest

from reverie.data import npm
from reverie.errors import UserError

FAKE = """#!{python}
import json, os, pathlib, sys
with open({log!r}, "a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
modules = pathlib.Path(sys.argv[sys.argv.index("--prefix") + 1]) / "node_modules"
for package in sys.argv[sys.argv.index("--prefix") + 2:]:
    name, _, version = package.rpartition("@")
    (modules / name).mkdir(parents=True)
    (modules / name / "package.json").write_text(json.dumps({{"version": os.environ.get("GIVES", version)}}))
"""
ONE = ("@some/core@1.2.0", "words@3.0.0")


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A npm that installs without a network; returns how often it ran."""
    log = tmp_path / "log"
    (tmp_path / "npm").write_text(FAKE.format(python=sys.executable, log=str(log)))
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return lambda: len(log.read_text().splitlines())


def version(modules, name):
    return json.loads((modules / name / "package.json").read_text())["version"]


def test_packages_are_installed_once_and_nothing_else_is_left(runs):
    assert npm.modules(ONE) == npm.modules(ONE) == npm.modules(ONE[::-1])
    assert runs() == 1
    assert len(list(npm.cache().iterdir())) == 1


def test_another_pin_is_another_version(runs):
    before, after = npm.modules(ONE), npm.modules(("@some/core@1.3.0", ONE[1]))
    assert version(after, "@some/core") == "1.3.0" and version(before, "@some/core") == "1.2.0"


@pytest.mark.parametrize("spoil", ['{"version": "0.9.0"}', "{", "[]", None])
def test_a_spoilt_folder_is_installed_anew(runs, spoil):
    file = npm.modules(ONE) / "words" / "package.json"
    file.unlink() if spoil is None else file.write_text(spoil)
    assert version(npm.modules(ONE), "words") == "3.0.0"
    assert runs() == 2 and len(list(npm.cache().iterdir())) == 1


def test_what_another_process_installed_meanwhile_is_kept(runs, monkeypatch):
    ask, asked = npm.subprocess.run, []

    def meanwhile(*words, **more):
        asked.append(1)
        if len(asked) == 1:
            (npm.modules(ONE) / "theirs").touch()
        return ask(*words, **more)

    monkeypatch.setattr(npm.subprocess, "run", meanwhile)
    assert (npm.modules(ONE) / "theirs").exists()
    assert runs() == 2 and len(list(npm.cache().iterdir())) == 1


def test_an_npm_that_gives_something_else_is_refused(runs, monkeypatch):
    monkeypatch.setenv("GIVES", "0.0.1")
    with pytest.raises(UserError, match="could not install"):
        npm.modules(ONE)
    assert list(npm.cache().iterdir()) == []


def test_a_cache_that_cannot_be_written_is_said_plainly(runs, tmp_path, monkeypatch):
    Path(tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path / "file"))
    with pytest.raises(UserError, match="XDG_CACHE_HOME"):
        npm.modules(ONE)
