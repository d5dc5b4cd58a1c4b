"""What a run will take is tried before it begins, and leaves nothing; and where it should have ended is told."""

import json

import tiny
import torch

from reverie.train.estimate import Estimate, advice, told, tried


def test_what_is_tried_leaves_nothing(tmp_path):
    run, same = tiny.make(tmp_path / "a", steps=9), tiny.make(tmp_path / "b", steps=9)
    before = {k: v.clone() for k, v in run.job.module.state_dict().items()}
    found = tried(run)
    assert found.seconds > 0 and found.memory > 1e6
    assert all(torch.equal(v, before[k]) for k, v in run.job.module.state_dict().items()) and run.step == 0
    assert run.advance() == same.advance() and all(p.grad is not None for p in run.parameters)


def test_a_line_for_a_person(tmp_path):
    run = tiny.make(tmp_path, steps=600)
    said = told(Estimate(0.5, 3 * 2**29), run, 100)
    assert said.startswith("a step takes 0.5 s here: 600 steps in 5 minutes, each of 100 pictures some ") and said.endswith(
        "1.5 GB of memory"
    )


def log(path, *losses):
    path.write_text("".join(json.dumps({"step": 10 * k, "validation": v}) + "\n" for k, v in enumerate(losses)))
    return advice(path)


def test_advice_is_given_where_the_loss_has_risen(tmp_path):
    assert not advice(tmp_path / "none")
    assert not log(tmp_path / "log", 1.0, None, 0.5, 0.505)
    assert "least at step 20 (0.5) and is 0.6 now" in log(tmp_path / "log", 1.0, None, 0.5, 0.6)
