"""Tuned solvers: exact whatever their weights, nearer than the usual ones, stored beside their model and only for it."""

import json

import pytest
import torch
from small import small_system

from reverie import oracle
from reverie.cli import main
from reverie.errors import UserError
from reverie.process import grids, schedules
from reverie.rng import Rng
from reverie.solve import DDIM, Tuned, sample
from reverie.systems.weights import save
from reverie.tasks.tune import best_places, tune


def told(capsys, *arguments):
    code = 0
    try:
        main([str(a) for a in arguments])
    except SystemExit as stop:
        code = stop.code
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    save(small_system(), path)
    return path


def test_weights_do_not_move_what_is_known():
    path = schedules.vp()
    point = torch.tensor([0.7, -1.3], dtype=torch.float64)
    grid = grids.karras()(path, 5)
    x = path.prior((4, 2), rng=Rng.of(0, 4, dtype=torch.float64))
    solver = Tuned(tuple(grid.tolist()), ((), (0.4,), (0.3, -0.2), (0.5, 0.1, -0.3), (0.2, 0.2, 0.2)))
    assert (sample(oracle.dirac(path, point), x, grid, solver) - point).abs().max() < 1e-12
    plain = Tuned(tuple(grid.tolist()), ((),) * 5)
    mixed = oracle.empirical(path, torch.stack([point, -point]))
    assert torch.allclose(sample(mixed, x, grid, plain), sample(mixed, x, grid, DDIM()))
    assert not torch.allclose(sample(mixed, x, grid, solver), sample(mixed, x, grid, DDIM()))
    with pytest.raises(UserError, match="its own 5 steps"):
        sample(mixed, x, grids.uniform()(path, 5), solver)
    with pytest.raises(UserError, match="falling times"):
        Tuned((1.0, 0.5, 0.0), ((0.1,), ()))


def test_the_times_are_the_cheapest():
    cost = torch.full((5, 5), torch.inf, dtype=torch.float64)
    for i in range(5):
        for j in range(i + 1, 5):
            cost[i, j] = (j - i) ** 2
    cost[0, 3] = 0.5
    assert best_places(cost, 2) == (0, 3, 4)
    assert best_places(cost, 4) == (0, 1, 2, 3, 4)
    assert best_places(cost, 1) == (0, 4)


def test_a_tuned_solver_comes_nearer_than_the_usual_one():
    found = [made for _, made in tune(small_system(), [3, 6], samples=6) if made]
    assert [f.nfe for f in found] == [3, 6]
    assert all(f.distance < f.usual for f in found) and found[1].distance < found[0].distance
    for bad in ([1], [33]):
        with pytest.raises(UserError, match="2 to 32"):
            next(tune(small_system(), bad))


def test_it_is_stored_beside_the_model_and_used(capsys, model, tmp_path):
    code, _, err = told(capsys, "generate", "a man", "--model", model, "--solver", "tuned", "--steps", 3, "--out", tmp_path)
    assert code == 2 and "reverie tune" in err
    code, out, _ = told(capsys, "tune", model, "--nfe", "3,4", "--samples", 4)
    assert code == 0 and "m.tuned.json" in out and "dpmpp-2m" in out
    code, out, _ = told(
        capsys, "generate", "a man", "--model", model, "--solver", "tuned", "--steps", 3, "--out", tmp_path, "--json"
    )
    first = json.loads(out)
    assert code == 0 and first["nfe"] == 3
    code, out, _ = told(capsys, "generate", "--from", first["file"], "--model", model, "--out", tmp_path / "again", "--json")
    assert code == 0 and (tmp_path / "again").exists()
    from PIL import Image

    assert Image.open(first["file"]).tobytes() == Image.open(json.loads(out)["file"]).tobytes()
    code, _, err = told(capsys, "generate", "--from", first["file"], "--model", model, "--solver", "euler", "--out", tmp_path)
    assert code == 0, err
    for asked, said in ((("--steps", 5), "only to 3, 4"), (("--steps", 3, "--grid", "uniform()"), "times of its own")):
        code, _, err = told(capsys, "generate", "a man", "--model", model, "--solver", "tuned", *asked, "--out", tmp_path)
        assert code == 2 and said in err
    assert told(capsys, "tune", model, "--nfe", "3;4")[0] == 2


def test_what_was_tuned_to_other_weights_is_not_used(capsys, model, tmp_path):
    other = small_system()
    with torch.no_grad():
        next(other.denoiser.parameters()).add_(0.1)
    save(other, tmp_path / "o.safetensors")
    (tmp_path / "o.tuned.json").write_text(json.dumps({"model": "another", "solvers": {"3": {"knots": [1, 0], "weights": [[]]}}}))
    asked = ("generate", "a man", "--model", tmp_path / "o.safetensors", "--solver", "tuned", "--steps", 3, "--out", tmp_path)
    code, _, err = told(capsys, *asked)
    assert code == 2 and "no solver tuned" in err
    (tmp_path / "o.tuned.json").write_text("{")
    code, _, err = told(capsys, *asked)
    assert code == 2 and "o.tuned.json cannot be used" in err and "delete it" in err
