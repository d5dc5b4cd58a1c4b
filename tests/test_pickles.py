"""The process that reads pickles: what it may not do, whatever a file asks for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reverie.errors import UserError
from reverie.systems import unpickle
from reverie.systems.pickles import CHILD, tensors

HARMS = ("import socket; socket.create_connection(('127.0.0.1', 9))", "import os; os.system('true')", "open('/tmp/harm', 'w')")


def told(code):
    """What a process says on stdout, after it did this with our module."""
    code = f"import sys; sys.path.insert(0, {str(CHILD.parent)!r}); import unpickle\n{code}"
    return subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("harm", HARMS)
def test_it_is_watched(harm):
    done = told(f"unpickle.watched('answer')\n{harm}")
    assert done.returncode == 1 and "RuntimeError: the file asked" in done.stderr, done.stderr


def test_it_leaves_the_network_before_there_are_threads(tmp_path):
    """Its namespace is another one, where the system grants that to any process; with threads it would not be granted."""
    own = os.readlink("/proc/self/ns/net")
    first, where = told("import os; print(unpickle.alone(), os.readlink('/proc/self/ns/net'))").stdout.split()
    assert (first == "True") == (where != own)
    torch.save({"a": torch.zeros(2)}, tmp_path / "a.bin")
    words = [sys.executable, "-I", str(CHILD), str(tmp_path / "a.bin"), str(tmp_path / "answer"), str(1 << 40)]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert said.split("\n")[0] == (unpickle.ALONE if first == "True" else "watched")
    source = Path(CHILD).read_text()
    assert source.index("if alone()") < source.index("import torch\n    from")


@pytest.mark.parametrize(("limit", "code"), [(1 << 40, 0), (1 << 20, 1)])
def test_it_has_bounded_memory(tmp_path, limit, code):
    torch.save({"a": torch.zeros(1 << 20)}, tmp_path / "a.bin")
    words = [sys.executable, "-I", str(CHILD), str(tmp_path / "a.bin"), str(tmp_path / "answer"), str(limit)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr


def test_a_file_without_tensors_is_named(tmp_path):
    torch.save([1, 2], tmp_path / "a.bin")
    with pytest.raises(UserError, match=r"a\.bin is refused: it holds no tensors; get the model as safetensors"):
        tensors(tmp_path / "a.bin")
