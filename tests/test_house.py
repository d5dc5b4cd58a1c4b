"""The house itself: arrows point down, the door opens quickly, files stay small."""

import ast
import io
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

import reverie

SOURCE = Path(reverie.__file__).parent
FLOORS = (
    ("errors", "rng", "card", "files"),
    ("process", "nets", "data"),
    ("denoiser", "codec", "oracle"),
    ("encode", "guide", "solve"),
    ("train", "measure"),
    ("adapt", "distill", "lift"),
    ("systems",),
    ("tasks",),
    ("studio",),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}


def imports(path):
    """Rooms of reverie that a file imports, at whatever depth of the code; the names of `from reverie import` by their homes."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written out from reverie"
            inside = [f"reverie.{alias.name}" for alias in node.names]
            names = [reverie._HOME.get(n[8:], n) for n in inside] if node.module == "reverie" else [node.module]
        yield from (n.split(".")[1] for n in names if n.startswith("reverie."))


@pytest.mark.parametrize(
    ("line", "room"),
    [
        ("from reverie import tasks", "tasks"),
        ("from reverie import errors, train as t", "train"),
        ("from reverie import generate", "tasks"),  # a name of the front door, by its home
        ("from reverie.tasks.train import Session", "tasks"),
        ("import reverie.tasks.train", "tasks"),
        ("def late():\n    from reverie import tasks", "tasks"),
    ],
)
def test_every_way_to_import_a_room_is_seen(tmp_path, line, room):
    (tmp_path / "file.py").write_text(line)
    assert room in imports(tmp_path / "file.py")


def room_of(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


FILES = sorted(p for p in SOURCE.rglob("*.py") if p != SOURCE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_only_go_down(path):
    room = room_of(path)
    assert room in FLOOR, f"{room} is not a room of the house"
    for other in imports(path):
        if other == room:
            continue
        lower = FLOOR[other] < FLOOR[room]
        single = (SOURCE / f"{other}.py").exists()  # the single files of a floor may lean on each other
        assert lower or (single and FLOOR[other] == FLOOR[room]), f"{room} imports {other}, which is not below it"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_stay_small(path):
    assert len(path.read_text().splitlines()) <= 350


def code_lines(path):
    """Lines of code in a file: without docstrings, comments and what is empty."""
    text = path.read_text()
    blank = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type not in blank]
    lines = {line for t in tokens for line in range(t.start[0], t.end[0] + 1)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def test_the_core_stays_small():
    for rooms, most in ((("process", "denoiser", "solve"), 2500), (("guide",), 1700)):
        core = [p for p in FILES if room_of(p) in rooms]
        assert 500 < sum(map(code_lines, core)) < most


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_and_help_do_not_import_torch():
    assert run("import sys, reverie; print('torch' in sys.modules)").strip() == "False"
    code = "import sys; from reverie.cli import main; main(['--help']); print('torch' in sys.modules)"
    assert run(code).strip().endswith("False")


def test_every_public_name_exists():
    for name in reverie.__all__:
        assert getattr(reverie, name) is not None
