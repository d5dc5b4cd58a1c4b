"""The command line is a promise: a flag that appears, moves or goes is a decision, and is made here."""

from dataclasses import fields

import pytest

from reverie.cli import COMMANDS
from reverie.cli.compare import Compare
from reverie.cli.data import Data
from reverie.cli.evaluate import Evaluate
from reverie.cli.generate import Generate
from reverie.cli.parse import _flags, parse
from reverie.cli.solvers import Solvers
from reverie.cli.train import Place, _command
from reverie.cli.tune import Tune
from reverie.errors import UserError
from reverie.systems.recipes import RECIPES
from reverie.train import Training


def names(kind):
    return " ".join(f.name for f in fields(kind))


def test_commands():
    assert list(COMMANDS) == ["generate", "compare", "train", "tune", "evaluate", "data", "solvers"]
    assert list(RECIPES) == [
        "toy-2d", "fashion-mnist", "avatars", "avatars-words", "avatars-enlarger", "folder", "avatars-reader", "fashion-reader"
    ]  # fmt: skip


def test_flags():
    assert names(Generate) == "prompt style count seed steps guidance negative solver grid model out batch strict from_ json"
    assert names(Compare) == f"{names(Generate)} x y reference"
    assert names(Evaluate) == "model data samples steps guidance solver seed batch json"
    assert names(Data) == "name path count size style seed out sheet"
    assert names(Solvers) == "name json"
    assert names(Place) == "out resume average threads"
    assert names(Training) == (
        "steps minutes batch rate warmup decay weight_decay beta2 clip widths snapshots bf16 compile seed holdout save_minutes "
        "validate_minutes"
    )
    assert names(type(RECIPES["avatars"])) == (
        "name about source data size training shrink codec net words wording objective sampling samples"
    )


OFFERED = {kind.__name__: kind() for kind in (Generate, Compare, Evaluate, Data, Solvers, Tune)}
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
