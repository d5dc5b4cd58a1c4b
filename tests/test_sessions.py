"""A run in its folder: begun, resumed with the recipe it was begun with, and refused where that does not fit together."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from reverie import cli
from reverie.data.pictures import Pictures
from reverie.errors import UserError
from reverie.systems.recipe import Recipe
from reverie.systems.system import Part, Sampling
from reverie.systems.toy.recipe import TOY
from reverie.systems.weights import save
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
    with pytest.raises(UserError, match=r"fit together|no net can|no solver|unknown name"):
        tasks_train.Session.open(replace(CONVS, **wrong), tmp_path, resume=False)
    assert not (tmp_path / "recipe.json").exists()


POINTS = replace(TOY, count=200, training=replace(TOY.training, steps=60, batch=32, save_minutes=0))


def logged(folder):
    return [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_log_of_a_killed_run_says_every_step_once(tmp_path):
    going = iter(tasks_train.Session.open(POINTS, tmp_path, resume=False))
    for _ in range(30):
        next(going)
    kept = (tmp_path / "checkpoint.safetensors").read_bytes()
    for _ in range(20):
        next(going)
    going.close()
    (tmp_path / "checkpoint.safetensors").write_bytes(kept)  # as if it had been killed before a later one
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 5')
    list(tasks_train.Session.open(POINTS, tmp_path, resume=True))
    assert logged(tmp_path) == list(range(1, 61))


def test_a_run_killed_before_its_first_checkpoint_begins_anew_and_says_so(tmp_path, capsys):
    small = ["train", "toy-2d", "--steps", "6", "--batch", "32", "--count", "200", "--out", str(tmp_path)]
    cli.main(small)
    (tmp_path / "checkpoint.safetensors").unlink()
    (tmp_path / "log.jsonl").write_text('{"step": 3}\n')
    cli.main([*small, "--resume"])
    assert "holds no checkpoint yet: beginning anew" in capsys.readouterr().err
    assert logged(tmp_path) == [6]


def test_points_are_previewed_where_they_lie(tmp_path):
    list(tasks_train.Session.open(POINTS, tmp_path, resume=False))
    (path,) = (tmp_path / "previews").iterdir()
    pixels = np.asarray(Image.open(path))
    assert pixels.shape == (256, 256, 3)
    colours, counts = np.unique(pixels[::4, ::4].reshape(-1, 3), axis=0, return_counts=True)
    assert colours.tolist() == [[190, 190, 190], [200, 30, 30], [255, 255, 255]] and counts[:2].min() > 20


def opened(folder, minutes=None, **changes):
    """A resumed run of points that has taken two minutes for 100 of its 1000 steps, or of ten minutes."""
    timed = {"steps": None, "minutes": 10.0} if minutes is None else {"steps": None, "minutes": minutes}
    training = replace(POINTS.training, save_minutes=1e9, **timed)
    return tasks_train.Session.open(replace(POINTS, training=replace(training, **changes)), folder, resume=True).run


@pytest.fixture
def timed(tmp_path):
    """The folder of a run of ten minutes that was stopped after five of them, at step 500 of 1000."""
    run = tasks_train.Session.open(
        replace(POINTS, training=replace(POINTS.training, steps=None, minutes=10.0)), tmp_path, resume=False
    ).run
    run.advance()
    run.step, run.seconds = 500, 300.0
    run.plan()
    assert run.steps == 1000 and run.save()
    return tmp_path


def test_slow_first_steps_do_not_tell_the_length(timed):
    run = opened(timed)
    run.job.slow, run.steps = 100, 0
    for step, seconds in ((40, 80.0), (100, 200.0), (110, 205.0), (119, 209.5)):
        run.step, run.seconds = step, seconds
        run.plan()
        assert run.steps == 0, "the slow ones took 2 seconds each"
    run.step, run.seconds = 140, 220.0
    run.plan()
    assert run.steps == 140 + 380 * 2, "what is left of ten minutes, at half a second each"
    run.steps, run.job.slow = 0, 1000
    run.step, run.seconds = 150, 301.0
    run.plan()
    assert run.steps == int(150 + 299 * 150 / 301), "half of the time is over"


def test_a_resumed_run_takes_another_length(timed):
    assert opened(timed).steps == 1000
    longer = opened(timed, minutes=20.0)
    assert longer.steps == 2000 and longer.complaint == ""
    assert opened(timed, steps=700).steps == 700
    longer.save()
    assert opened(timed, minutes=20.0).steps == 2000
    with pytest.raises(UserError, match=r"at step 500 already, after 5 minutes.*give more"):
        opened(timed, minutes=4.0)
    with pytest.raises(UserError, match="at step 500 already"):
        opened(timed, steps=400)


def test_a_rate_that_rises_again_is_said(timed):
    late = opened(timed)
    late.step, late.seconds = 900, 540.0
    late.save()
    assert opened(timed).complaint == ""
    assert "rises again" in opened(timed, minutes=20.0).complaint


def test_minutes_hold_in_place_of_a_presets_steps(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("reverie.cli.train.show", lambda session: None)
    cli.main(["train", "toy-2d", "--minutes", "3", "--count", "200", "--out", str(tmp_path)])
    assert tasks_train.stored(tmp_path)["training"]["steps"] is None
    with pytest.raises(SystemExit):
        cli.main(["train", "toy-2d", "--minutes=3", "--steps", "9", "--out", str(tmp_path)])
    assert "give one of them" in capsys.readouterr().err


def test_a_run_of_older_days_goes_by_its_minutes():
    assert tasks_train.restored(POINTS, {"training": {"steps": 0, "minutes": 4.0}}).training.steps is None


WRONG = {
    "no steps": (["--steps", "0"], "steps is 0"),
    "negative steps": (["--steps=-3"], "steps is -3"),
    "no minutes": (["--minutes", "0"], "minutes is 0"),
    "endless": (["--minutes", "inf"], "minutes is inf"),
    "rate": (["--rate", "1e30"], "rate is 1e+30"),
    "no rate": (["--rate", "nan"], "rate is nan"),
    "batch": (["--batch", "1000000000000"], "batch is 1000000000000"),
    "seed": (["--seed=-1"], "seed is -1"),
    "large seed": (["--seed", "99999999999999999999"], "seed is 99999999999999999999"),
    "no points": (["--count", "0"], "--count is 0; give 2 or more"),
    "one point": (["--count", "1"], "--count is 1;"),
    "negative points": (["--count=-5"], "--count is -5;"),
    "points": (["--count", "1000000000000"], "--count is 1000000000000"),
    "drop": (["--objective.drop", "2"], "drop is 2"),
    "width": (["--net.width", "0"], "--net.width is 0"),
    "large width": (["--net.width", "1000000000"], "--net.width is 1000000000"),
    "guidance": (["--sampling.guidance", "nan"], "--sampling.guidance is nan"),
    "sampling steps": (["--sampling.steps", "0"], "steps"),
    "threads": (["--threads", "100000"], "--threads is 100000"),
    "average of nothing": (["--average", "0.1"], "run has no snapshots"),
    "average": (["--average", "0.5"], "between 0 and 0.28"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_run_that_cannot_be_is_refused_before_it_begins(tmp_path, capsys, case):
    arguments, said = WRONG[case]
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "toy-2d", *arguments, "--out", str(tmp_path / "run")])
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "") and len(err.splitlines()) == 1 and said in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("field", ["wording", "codec"])
def test_a_part_that_a_model_does_not_have_is_named(tmp_path, field):
    save(Part(about={"name": "nothing"}), tmp_path / "part.safetensors")
    recipe = replace(CONVS, shrink=2, **{field: str(tmp_path / "part.safetensors")})
    with pytest.raises(UserError, match=f"the {field} .*part.safetensors (has no|is a part without)"):
        tasks_train.Session.open(recipe, tmp_path / "run", resume=False)


def test_whatever_does_not_fit_is_one_line(tmp_path):
    class Odd(Specks):
        def prepare(self, pictures):
            return None.shape

    with pytest.raises(UserError, match="does not fit together: 'NoneType' object has no attribute 'shape'"):
        tasks_train.Session.open(Odd(**{k: getattr(CONVS, k) for k in ("name", "source", "net", "training")}), tmp_path, False)
