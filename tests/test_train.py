"""A run that is stopped, killed or starved goes on bit for bit."""

import random
import re
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file

from reverie.data.pictures import Pictures
from reverie.errors import UserError
from reverie.nets.mlp import MLPConfig
from reverie.systems.recipe import Recipe
from reverie.systems.system import Sampling
from reverie.systems.toy.recipe import TOY
from reverie.tasks import train as tasks_train
from reverie.train import Run, Training, fit
from reverie.train.loop import Key, order


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run: its losses, and all it holds at the end."""
    run = tiny.make(tmp_path_factory.mktemp("whole"))
    losses = [now.loss for now in fit(run)]
    return losses, tiny.state(run)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


def resumed(folder):
    run = tiny.make(folder)
    run.resume()
    return run


@pytest.mark.parametrize("stop", [1, 5, tiny.STEPS - 1])
def test_stop_and_resume_is_the_same_run(whole, tmp_path, stop):
    losses = []
    going = fit(tiny.make(tmp_path))
    for now in going:
        losses.append(now.loss)
        if now.step == stop:
            torch.randn(5)  # what others draw in between changes nothing
            going.close()
    run = resumed(tmp_path)
    assert run.step == stop
    losses += [now.loss for now in fit(run)]
    assert losses == whole[0]
    assert same(tiny.state(run), whole[1])


def test_an_interrupted_step_is_taken_again(whole, tmp_path, monkeypatch):
    run, advance = tiny.make(tmp_path), Run.advance

    def stopped(self):
        if self.step == 4:
            raise KeyboardInterrupt
        return advance(self)

    monkeypatch.setattr(Run, "advance", stopped)
    with pytest.raises(KeyboardInterrupt):
        list(fit(run))
    monkeypatch.undo()
    run = resumed(tmp_path)
    assert run.step == 4
    list(fit(run))
    assert same(tiny.state(run), whole[1])


def child(folder, *words):
    command = [sys.executable, str(Path(tiny.__file__)), str(folder), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("last", random.Random(0).sample(range(2, tiny.STEPS - 2), 2))
def test_kill_at_any_moment_loses_no_saved_step(whole, tmp_path, last):
    with child(tmp_path) as process:
        for line in process.stdout:
            if int(line) == last:
                process.send_signal(signal.SIGKILL)
                break
    run = resumed(tmp_path)
    assert last <= run.step <= tiny.STEPS
    list(fit(run))
    assert same(tiny.state(run), whole[1])


def test_kill_while_a_checkpoint_is_written_leaves_the_one_before(whole, tmp_path):
    with child(tmp_path, "torn") as process:
        said = process.stdout.read().split()
    assert process.returncode == -signal.SIGKILL and said == ["1", "2", "3"]
    assert [p.name for p in tmp_path.glob("*.safetensors")] == ["checkpoint.safetensors"]
    run = resumed(tmp_path)
    assert run.step == 3
    list(fit(run))
    assert same(tiny.state(run), whole[1])


def test_a_full_disk_leaves_the_older_checkpoint_and_the_run_goes_on(whole, tmp_path):
    run = tiny.make(tmp_path, save_minutes=0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before, saved = b"", []
    try:
        for now in fit(run):
            saved.append(now.saved)
            if now.step == 3:
                before = run.checkpoint.read_bytes()
                resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))  # files get half as long as needed
            if now.step == 6:
                assert run.checkpoint.read_bytes() == before
                assert "has room" in run.complaint
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert saved == [True, True, True, False, False, False, True, True, True]
    assert run.complaint == "" and [p.name for p in tmp_path.iterdir()] == ["checkpoint.safetensors"]
    assert same(tiny.state(run), whole[1])
    assert resumed(tmp_path).step == tiny.STEPS


def test_every_epoch_shows_each_example_once_wherever_it_begins():
    size, batch = 10, 4
    shown = np.concatenate([order(size, batch, step, 5) for step in range(10)])
    epochs = shown.reshape(4, size)
    assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert not np.array_equal(order(size, size, 0, 5), order(size, size, 0, 6))
    assert sorted(order(3, 7, 0, 0)[:6]) == [0, 0, 1, 1, 2, 2]  # a batch larger than the data


def test_the_validation_loss_is_a_function_of_the_weights(tmp_path):
    run = tiny.make(tmp_path)
    for _ in range(3):
        run.advance()
    with run.averaged():
        first = run.job.validate()
        torch.randn(3)
        assert run.job.validate() == first
        assert run.job.validate(batch=1) == pytest.approx(first, rel=1e-5)
    run.advance()
    assert run.job.validate() != first


def test_the_last_step_is_validated_and_saved(tmp_path):
    *_, last = fit(tiny.make(tmp_path))
    assert (last.step, last.saved, last.validation is not None) == (tiny.STEPS, True, True)


RECIPE = Recipe(
    name="specks",
    source="folder",
    size=8,
    net=tiny.PLAIN,
    sampling=Sampling(steps=2, size=(8, 8)),
    training=tiny.settings(save_minutes=0, validate_minutes=0, holdout=4, widths=(0.1,)),
)


def session(folder, **changes):
    images = np.random.default_rng(0).integers(0, 256, (14, 1, 8, 8), dtype=np.uint8)
    recipe = replace(RECIPE, training=replace(RECIPE.training, **changes))
    system, job = recipe.prepare(Pictures("specks", images, "none needed"))
    return tasks_train.Session(recipe, system, Run(job, recipe.training, folder), folder)


def test_a_failing_preview_never_ends_a_run_and_comes_after_the_save(tmp_path, monkeypatch):
    saved = []

    def broken(*args, **kwargs):
        saved.append((tmp_path / "checkpoint.safetensors").exists())
        raise RuntimeError("no picture today")

    monkeypatch.setattr(tasks_train, "generate", broken)
    run = session(tmp_path)
    complaints = {run.run.complaint for _ in run}
    assert run.run.step == tiny.STEPS and saved == [True] * tiny.STEPS
    assert any("no picture today" in c for c in complaints)
    assert (tmp_path / "model.safetensors").exists()


def test_a_checkpoint_cut_short_is_refused(tmp_path):
    run = tiny.make(tmp_path)
    run.advance()
    assert run.save()
    data = run.checkpoint.read_bytes()
    for length in (0, 7, 200, len(data) // 2, len(data) - 1):
        run.checkpoint.write_bytes(data[:length])
        with pytest.raises(UserError, match=r"not a whole safetensors file .*; delete it: --resume then begins anew$"):
            resumed(tmp_path)
    (tmp_path / "snapshot-0000001.safetensors").touch()
    with pytest.raises(UserError, match=r"and --average 0.05 makes a model of the snapshots$"):
        resumed(tmp_path)
    run.checkpoint.unlink()
    with pytest.raises(UserError, match="is not there"):
        resumed(tmp_path)


def test_the_checkpoint_of_another_model_is_refused(tmp_path):
    run = tiny.make(tmp_path)
    run.advance()
    run.save()
    for other in (replace(tiny.NET, channels=16), replace(tiny.NET, mult=(1, 1)), replace(tiny.NET, blocks=2)):
        with pytest.raises(UserError, match="another model"):
            tiny.make(tmp_path, net=other).resume()
    with pytest.raises(UserError, match="seed"):
        tiny.make(tmp_path, seed=1).resume()
    with pytest.raises(UserError, match="another model"):
        tiny.make(tmp_path, widths=(0.2,)).resume()


def test_a_model_file_is_not_a_checkpoint(tmp_path):
    run = session(tmp_path)
    run.export().rename(run.run.checkpoint)
    with pytest.raises(UserError, match="not a checkpoint"):
        run.run.resume()


def test_a_step_without_a_finite_gradient_changes_no_weight(tmp_path, monkeypatch):
    run = tiny.make(tmp_path)
    run.advance()
    before = {k: v.clone() for k, v in run.job.module.state_dict().items()}
    loss = run.job.loss
    monkeypatch.setattr(run.job, "loss", lambda index, key: loss(index, key) * torch.nan)
    run.advance()
    assert run.step == 2 and same(before, run.job.module.state_dict())


def test_the_rate_warms_up_stays_and_falls_to_nothing(tmp_path):
    run = tiny.make(tmp_path, steps=100, warmup=10, decay=0.4, rate=1.0)

    def rate(step):
        run.step = step
        return run.rate()

    assert [rate(k) for k in (0, 4, 9, 30, 60)] == pytest.approx([0.1, 0.5, 1, 1, 1])
    assert [rate(k) for k in (80, 99, 100)] == pytest.approx([0.5, 0.025, 0])


def test_randomness_is_named_not_carried():
    draws = [Key(s, k).torch(p).initial_seed() for s in (0, 1) for k in (0, 1) for p in ("time", "noise")]
    assert len(set(draws)) == 8
    assert Key(0, 1).numpy("a").random() == Key(0, 1).numpy("a").random() != Key(0, 1).numpy("b").random()


@pytest.mark.parametrize("field", ["steps", "batch", "rate", "minutes", "clip", "holdout"])
@pytest.mark.parametrize("value", [0, -1, 1e30, float("inf"), float("nan")])
def test_impossible_settings_are_refused(field, value):
    with pytest.raises(UserError, match=re.escape(f"{field} is {value}")):
        Training(**{field: value})


def test_a_finished_run_gives_a_model_of_another_length(tmp_path):
    training = Training(steps=40, batch=32, bf16=False, snapshots=8, holdout=64)
    recipe = replace(TOY, count=500, net=MLPConfig(width=16, depth=1), training=training)
    session = tasks_train.Session.open(recipe, tmp_path, resume=False)
    list(session)
    session.reaverage(0.05)
    weights = session.run.job.module.state_dict()
    for name, value in session.run.ema.averages[0].items():
        assert torch.allclose(weights[name], value, atol=5e-3)
    path = session.reaverage(0.15)
    assert path.name == "model-0.15.safetensors"
    assert any(not torch.allclose(v, session.run.ema.averages[0][k]) for k, v in session.run.job.module.state_dict().items())
    with pytest.raises(UserError, match="between 0 and"):
        session.reaverage(0.5)


def test_a_run_that_diverges_says_so_and_saves_nothing_spoilt(tmp_path):
    run = tiny.make(tmp_path, steps=100)
    going = fit(run)
    next(going)
    run.save()
    with torch.no_grad():
        run.parameters[0].fill_(float("nan"))
    with pytest.raises(UserError, match=r"diverged at step 1: the last 20 steps.*begin again in another folder"):
        list(going)
    assert resumed(tmp_path).step == 1


@pytest.mark.parametrize("spoilt", [float("nan"), 1e30])
@pytest.mark.parametrize("more", [6, 40])  # too few steps to be hopeless, and enough
def test_a_run_that_diverges_leaves_the_model_and_the_checkpoint_of_before(tmp_path, spoilt, more):
    list(session(tmp_path))
    kept = {name: load_file(tmp_path / name) for name in ("model.safetensors", "checkpoint.safetensors")}
    longer = session(tmp_path, steps=tiny.STEPS + more, validate_minutes=1e9)
    longer.run.resume()
    with torch.no_grad():
        for p in longer.run.parameters:
            p.fill_(spoilt)
    if more == 6:  # what had been good stands there, though no model had been written
        (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"diverged.*begin again in another folder, with a smaller rate than 0\.002"):
        list(longer)
    for name, tensors in kept.items():
        found = load_file(tmp_path / name)
        assert found.keys() == tensors.keys() and all(torch.equal(found[k], v) for k, v in tensors.items())


def test_a_last_step_without_a_finite_gradient_does_not_cost_the_model(tmp_path, monkeypatch):
    run = session(tmp_path)
    loss = run.run.job.loss
    last = tiny.STEPS - 1
    monkeypatch.setattr(run.run.job, "loss", lambda index, key: loss(index, key) * (torch.nan if key.step == last else 1))
    list(run)
    assert run.run.skipped == 1 and (tmp_path / "model.safetensors").exists()


def test_another_seed_is_another_noise(tmp_path):
    job = tiny.make(tmp_path).job
    x = torch.zeros(4, 1, 8, 8)
    assert torch.equal(job._noise(x, Key(0, 3)), job._noise(x, Key(0, 3)))
    assert not torch.equal(job._noise(x, Key(0, 3)), job._noise(x, Key(1, 3)))
    assert not torch.equal(job._noise(x, Key(0, 3)), job._noise(x, Key(0, 4)))


def test_the_last_moment_is_stored(tmp_path):
    list(fit(tiny.make(tmp_path, snapshots=4)))
    assert (tmp_path / f"snapshot-{tiny.STEPS:07d}.safetensors").exists()


@pytest.mark.parametrize(
    "wrong",
    [{"batch": 0}, {"widths": (0.5,)}, {"widths": ()}, {"beta2": 2.0}, {"weight_decay": -1.0}, {"warmup": -1}, {"decay": 1.5}],
)
def test_senseless_settings_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        tiny.settings(**wrong)
