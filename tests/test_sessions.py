"""A run in its folder: begun, resumed with the recipe it was begun with, and refused where that does not fit together."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from reverie import cli
from reverie.data.pictures import Pictures
from reverie.errors import UserError
from reverie.systems.recipe import Recipe
from reverie.systems.system import Sampling
from reverie.tasks import train as tasks_train


def images(count=14):
    return Pictures("specks", np.random.default_rng(0).integers(0, 256, (count, 1, 8, 8), dtype=np.uint8), "none needed")


class Specks(Recipe):
    def pictures(self):
        return images()


CONVS = Specks(
    name="specks",
    source="folder",
    size=8,
    net=replace(tiny.PLAIN, channels=16),
    sampling=Sampling(steps=2, size=(8, 8)),
    training=tiny.settings(holdout=4, widths=(0.1,), bf16=True, steps=6),
)


def test_a_recipe_with_its_channels_innermost_resumes_bit_for_bit(tmp_path):
    """The moments must lie in memory as the weights do: the fused optimiser does not look at strides."""
    straight = tasks_train.Session.open(CONVS, tmp_path / "one", resume=False)
    list(straight)
    first = iter(tasks_train.Session.open(CONVS, tmp_path / "two", resume=False))
    for _ in range(3):
        next(first)
    first.close()
    again = tasks_train.Session.open(CONVS, tmp_path / "two", resume=True)
    assert again.run.step == 3
    list(again)
    weight = next(p for p in again.run.parameters if p.ndim == 4 and p.shape[2] == 3 and p.shape[1] > 1)
    assert weight.stride()[1] == 1  # or the test says nothing
    one, other = tiny.state(straight.run), tiny.state(again.run)
    assert one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


def test_resuming_keeps_the_recipe_the_run_was_begun_with(tmp_path):
    list(tasks_train.Session.open(CONVS, tmp_path, resume=False))
    longer = replace(CONVS, training=replace(CONVS.training, steps=8))
    assert tasks_train.Session.open(longer, tmp_path, resume=True).run.steps == 8
    with pytest.raises(UserError, match="begun with --batch 4, not 8: leave it out"):
        tasks_train.Session.open(replace(CONVS, training=replace(CONVS.training, batch=8)), tmp_path, resume=True)
    with pytest.raises(UserError, match=r"begun with --net.channels 16, not 8"):
        tasks_train.Session.open(replace(CONVS, net=tiny.PLAIN), tmp_path, resume=True)
    again = tasks_train.restored(replace(CONVS, net=tiny.PLAIN), tasks_train.stored(tmp_path))
    assert again.net == CONVS.net and again.training == longer.training


def test_the_command_line_resumes_what_was_begun(tmp_path, capsys):
    out = ["--out", str(tmp_path)]
    cli.main(["train", "toy-2d", "--steps", "6", "--batch", "32", "--count", "200", *out])
    with pytest.raises(SystemExit):
        cli.main(["train", "toy-2d", "--batch", "16", "--resume", *out])
    assert "begun with --batch 32" in capsys.readouterr().err
    cli.main(["train", "toy-2d", "--resume", "--steps", "9", *out])
    assert tasks_train.stored(tmp_path)["training"]["batch"] == 32
    assert '"steps": 9' in (tmp_path / "log.jsonl").read_text().splitlines()[-1]
    cli.main(["train", "toy-2d", "--resume", "--steps", "2", "--count", "200", "--out", str(tmp_path / "new")])
    assert "holds no run yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        {"net": replace(tiny.PLAIN, channels=30)},
        {"net": replace(tiny.PLAIN, patch=3)},
        {"sampling": Sampling(solver="nope")},
        {"sampling": Sampling(grid="nope()")},
    ],
)
def test_what_does_not_fit_together_is_found_before_the_first_step(tmp_path, wrong):
    with pytest.raises(UserError, match=r"fit together|no solver|unknown name"):
        tasks_train.Session.open(replace(CONVS, **wrong), tmp_path, resume=False)
    assert not (tmp_path / "recipe.json").exists()
