"""The command line is a promise: a flag that appears, moves or goes is a decision, and is made here."""

from dataclasses import fields

import pytest

from reverie.cli import COMMANDS, main
from reverie.cli.compare import Compare
from reverie.cli.convert import Convert
from reverie.cli.data import Data
from reverie.cli.drawing import of_solver
from reverie.cli.edit import Edit
from reverie.cli.evaluate import Evaluate
from reverie.cli.generate import Generate
from reverie.cli.inpaint import Inpaint
from reverie.cli.outpaint import Outpaint
from reverie.cli.parse import _flags, parse
from reverie.cli.restore import Restore
from reverie.cli.solvers import Solvers
from reverie.cli.systems import Systems
from reverie.cli.train import Place, _command
from reverie.cli.tune import Tune
from reverie.cli.upscale import Upscale
from reverie.errors import UserError
from reverie.systems.opening import Opening
from reverie.systems.recipes import RECIPES
from reverie.tasks.settings import Settings
from reverie.train import Training


def names(kind):
    return " ".join(f.name for f in fields(kind))


def test_commands():
    assert list(COMMANDS) == [
        "generate",
        "edit",
        "inpaint",
        "outpaint",
        "upscale",
        "restore",
        "compare",
        "train",
        "distill",
        "adapt",
        "repro",
        "tune",
        "evaluate",
        "data",
        "solvers",
        "systems",
        "doctor",
        "convert",
        "studio",
    ]
    assert list(RECIPES) == [
        "toy-2d", "fashion-mnist", "avatars", "avatars-words", "avatars-enlarger", "avatars-autoencoder", "avatars-latent",
        "autoencoder", "autoencoder-vq", "autoencoder-dc", "emoji-words", "emoji", "folder", "avatars-reader", "fashion-reader",
        "emoji-reader", "fashion-classifier", "avatars-scorer", "avatars-32", "avatars-64", "avatars-128", "avatars-repair",
        "avatars-edges", "avatars-sketch", "avatars-shading", "avatars-regions", "avatars-low", "avatars-palette",
        "avatars-uni", "avatars-edges-plus", "avatars-shared", "avatars-sketch-lora", "avatars-low-lora", "avatars-picture",
        "avatars-subject",
    ]  # fmt: skip


def test_flags():
    assert names(Generate) == (
        "style count seed steps guidance negative guide control region regions_by plain solver grid model fast lora loras "
        "embedding then refiner handover height width out batch vary vary_seed follow stress strict from_ json opening prompt"
    )
    changing = f"{names(Generate).removesuffix(' prompt')} image prompt"
    assert names(Edit) == f"{changing} strength mask invert keep"
    assert names(Inpaint) == f"{changing} mask strength resample"
    assert names(Outpaint) == f"{changing} left right top bottom resample"
    assert names(Upscale) == f"{changing} factor strength"
    assert names(Restore) == f"{changing} operator noise method mask"
    assert names(Compare) == f"{names(Generate)} x y reference"
    assert names(Evaluate) == "model data samples steps guidance solver seed batch json"
    assert names(Data) == "name path count size style seed out overwrite sheet"
    assert names(Solvers) == names(Systems) == "name json"
    assert names(Convert) == "model out partial allow_pickle parts"
    assert names(Opening) == "partial allow_pickle parts device precision offload compile tile"
    assert names(Place) == "out resume average threads"
    assert names(Training) == (
        "steps minutes batch rate warmup decay weight_decay beta2 clip widths snapshots bf16 compile seed holdout save_minutes "
        "validate_minutes"
    )
    assert names(type(RECIPES["avatars"])) == (
        "name about source data size training shrink codec net words wording apart damages objective sampling samples"
    )


OFFERED = {
    kind.__name__: kind()
    for kind in (Generate, Edit, Inpaint, Outpaint, Upscale, Restore, Compare, Evaluate, Data, Solvers, Tune, Systems, Convert)
}
OFFERED |= {name: _command(recipe) for name, recipe in RECIPES.items()}


@pytest.mark.parametrize("name", OFFERED)
def test_a_flag_that_is_offered_is_taken(name):
    flags = _flags(OFFERED[name])
    assert len(set(flags)) == len(flags) > 0
    for flag in flags:
        try:
            parse(type(OFFERED[name]), [f"--{flag}"], "reverie", OFFERED[name])
        except UserError as error:
            assert "does not know" not in str(error)


WRONG = {
    "no number": ("generate x --steps abc", "--steps is 'abc'; it must be a whole number"),
    "no fraction": ("generate x --guidance much", "--guidance is 'much'; it must be a number"),
    "no numbers": ("train toy-2d --widths 0.1 b", "--widths is '0.1 b'; it must be numbers"),
    "no such choice": ("train toy-2d --bf16 maybe", "invalid choice 'maybe' for argument '--bf16'"),
    "from a folder": ("generate --from .", "is a folder: name one picture in it"),
    "a folder for a file": ("data avatars --path .", "look at a folder with `reverie data folder`"),
    "nothing made": ("data avatars --overwrite", "--overwrite does nothing"),
    "no axis": ("compare x", "give --x, --y, or both"),
    "no class": ("generate x --solver Exponential(0)", "no solver is Exponential(0)"),
    "no names": ("generate x --solver UniPCMultistepScheduler(3)", "UniPCMultistepScheduler(solver_order=2)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_one_line_with_a_remedy(capsys, tmp_path, monkeypatch, case):
    words, said = WRONG[case]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "") and said in err and len(err.splitlines()) == 1


def test_a_set_that_is_there_is_replaced_only_when_asked(capsys, tmp_path, monkeypatch):
    path = tmp_path / "set.safetensors"
    path.write_text("mine")
    monkeypatch.setattr("reverie.cli.data._make", lambda asked, make: path.write_text("new"))
    for more, left in (([], "mine"), (["--overwrite"], "new")):
        with pytest.raises(SystemExit):  # the second time because that is no set
            main(["data", "avatars", "--out", str(path), "--sheet", str(tmp_path / "s.png"), *more])
        assert path.read_text() == left and ("add --overwrite" in capsys.readouterr().err) == (not more)


def test_what_a_solver_leaves_open_is_said():
    assert "write 'invokeai:deis'" in of_solver("deis", Settings(solver="deis-3", steps=5))[0]
    assert "--steps 1 leaves all to it" in of_solver(None, Settings(solver="rk23", steps=5))[0]
    assert of_solver("rk23", Settings(solver="rk23", steps=1)) == of_solver("tuned", Settings(solver="tuned", steps=5)) == []
