"""Settings side by side: cells are what `generate` makes, and stand where they belong; distances; everything asked wrongly."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from small import picture_of, small_system

from reverie.cli import main
from reverie.cli.compare import split
from reverie.errors import UserError
from reverie.process import grids, schedules
from reverie.rng import Rng
from reverie.solve import SOLVERS, Learned, Renoise, euler, named, rehearse, trace
from reverie.systems import save
from reverie.tasks import metadata
from reverie.tasks.compare import Axis, picture, prepare, results, table
from reverie.tasks.generate import generate

SYSTEM = small_system()
NONE = Axis()


def compared(x=NONE, y=NONE, *, system=SYSTEM, steps=10, **more):
    """(the comparison, its results) of a man."""
    asked = {"model": "small", "prompt": "a man", "seed": 3, **more}
    comparison = prepare(asked, x, y, steps=steps, load=lambda name: system)
    return comparison, list(results(comparison))


def command(capsys, *arguments):
    """(exit code, stdout, stderr) of `reverie compare`."""
    code = 0
    try:
        main(["compare", *map(str, arguments)])
    except SystemExit as stop:
        code = stop.code or 0
    said = capsys.readouterr()
    return code, said.out, said.err


# -- what a solver does is found out


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_draws_noise_where_other_noise_makes_another_picture(name):
    path = schedules.cosine()
    grid = grids.karras()(path, 8)

    def model(x, t, cond=None):
        return torch.zeros_like(x)

    model.path, model.with_variance = path, lambda x, t, cond=None: (torch.zeros_like(x), torch.zeros_like(x))
    one, other = (list(trace(model, torch.ones(1, 4), grid, named(name)[0], rng=Rng.of(seed))) for seed in (0, 1))
    different = any(not torch.equal(a.x, b.x) for a, b in zip(one, other, strict=True))
    nfe, noisy = rehearse(named(name)[0], path, grid)
    assert noisy is different
    assert nfe == one[-1].nfe or name == "adaptive-sde"  # whose steps depend on its noise


def test_solvers_that_look_at_more_than_the_estimate_are_rehearsed_too():
    path = schedules.cosine()
    grid = grids.uniform()(path, 3)
    assert rehearse(Learned(), path, grid) == (3, True)
    assert rehearse(Renoise(euler()), path, grid) == (3, True)
    assert rehearse(Renoise(euler(), eta=0.0), path, grid) == (3, False)
    with pytest.raises(UserError, match="fall strictly"):
        rehearse(euler(), path, torch.tensor([1.0, 1.0, 0.0]))


# -- cells


def test_cells_go_row_by_row_and_are_what_generate_makes():
    comparison, found = compared(Axis("solver", ("euler", "heun", "ddpm")), Axis("steps", (2, 3)), count=2)
    assert [tuple(one.cell.place.values()) for one in found] == [(s, n) for n in (2, 3) for s in ("euler", "heun", "ddpm")]
    for one in found:
        alone = generate(SYSTEM, "a man", seed=3, count=2, **one.cell.place)
        assert [p.image.tobytes() for p in one.pictures] == [image.tobytes() for image in alone]
    assert [one.row()["nfe"] for one in found] == [2, 3, 2, 3, 5, 3]
    lines = table(comparison, found).splitlines()
    assert lines[0].split() == ["solver", "steps", "NFE", "s/picture", "distance"]
    assert lines[3].split()[:3] == ["ddpm", "2", "2"] and lines[3].endswith("-  draws noise")


def test_progress_comes_to_its_total():
    asked = {"model": "small", "prompt": "a man", "count": 3, "batch": 2}
    comparison = prepare(asked, Axis("guidance", (1, 2.0)), Axis("solver", ("rk4", "ddpm")), steps=9, load=lambda name: SYSTEM)
    done = []
    assert len(list(results(comparison, done.append))) == 4
    assert sum(done) == comparison.total == 2 * 3 * (13 + 4 + 11)  # a long run for each guidance


def test_distances_are_from_the_limit_of_ode_solvers():
    _, found = compared(Axis("solver", ("euler", "dpmpp-2m", "ddpm")), Axis("steps", (2, 30)), steps=60)
    apart = {tuple(one.cell.place.values()): one.distance for one in found}
    for solver in ("euler", "dpmpp-2m"):
        assert apart[solver, 30] < apart[solver, 2] / 3
    assert apart["ddpm", 2] is apart["ddpm", 30] is None
    assert found[2].row() | {"seconds": 0} == {
        "solver": "ddpm", "steps": 2, "nfe": 2, "seconds": 0, "distance": None, "note": "draws noise"
    }  # fmt: skip
    long = generate(SYSTEM, "a man", seed=3, solver="dpmpp-3m", steps=60)[0]
    levels = np.asarray(found[0].pictures[0].image, float) - np.asarray(long, float)
    assert found[0].distance == pytest.approx(np.sqrt((levels**2).mean()))


def test_no_reference_no_distance():
    _, found = compared(Axis("steps", (1, 2)), steps=0)
    assert [(one.distance, one.note) for one in found] == [(None, "")] * 2


def test_a_cell_that_diverges_leaves_the_others():
    class Wild:
        """Numbers are lost from the third evaluation of a call on."""

        path = SYSTEM.denoiser.path
        calls = 0

        def __call__(self, x, t, cond=None):
            Wild.calls = 1 if bool(t == 1) else Wild.calls + 1
            return torch.full_like(x, torch.nan if Wild.calls > 2 else 0.5)

    comparison, found = compared(Axis("steps", (1, 2, 3)), system=replace(SYSTEM, denoiser=Wild()), guidance=1)
    assert [one.note for one in found] == ["reference diverged", "reference diverged", "diverged"]
    assert found[2].row() == {"steps": 3, "nfe": None, "seconds": None, "distance": None, "note": "diverged"}
    assert table(comparison, found).splitlines()[3].split() == ["3", "-", "-", "-", "diverged"]
    assert picture(comparison, found).width > 3 * 128


# -- the picture


def test_every_cell_stands_at_its_place(monkeypatch):
    comparison, found = compared(Axis("solver", ("euler", "ddpm", "dpmpp-2m")), Axis("steps", (2, 3)))
    out = picture(comparison, found)
    for k, one in enumerate(found):  # counted from the right and from below, where no labels stand but a line under each
        x, y = out.width - (3 - k % 3) * (128 + 8), out.height - (2 - k // 3) * (128 + 8 + 15)
        cell = out.crop((x, y, x + 128, y + 128))
        assert cell.resize((16, 16), Image.Resampling.NEAREST).tobytes() == one.pictures[0].image.tobytes()


def test_labels_say_what_differs_and_the_title_what_does_not(monkeypatch):
    labels = {}
    monkeypatch.setattr("reverie.tasks.compare.sheet", lambda images, columns, **more: labels.update(more, columns=columns))
    comparison, found = compared(Axis("guidance", (1.0, 2.5)), Axis("solver", ("euler", "ddpm")), style="micah")
    picture(comparison, found)
    assert labels["above"] == ["guidance 1", "guidance 2.5"] and labels["left"] == ["solver euler", "solver ddpm"]
    assert labels["title"] == "a man, steps 4, grid karras(), seed 3, style micah, model small"
    assert labels["below"][0] == f"NFE 4, distance {found[0].distance:.1f}" and labels["below"][3] == "NFE 4, draws noise"
    comparison, found = compared(NONE, Axis("prompt", ("a bald man", "")), steps=0)
    picture(comparison, found)
    assert labels["above"] == [] and labels["left"] == ["prompt a bald man", 'prompt ""'] and labels["columns"] == 1
    assert labels["title"].startswith("solver dpmpp-2m, steps 4, ") and labels["below"] == ["NFE 4", "NFE 4"]


# -- the command


def test_the_command_writes_a_picture_and_a_table(capsys, model, tmp_path):
    out = tmp_path / "new" / "grid.png"
    asked = ("a man", "--model", model, "--y", "grid=karras(smallest=0.02, largest=80),uniform()", "--reference", 8, "--out", out)
    code, said, err = command(capsys, *asked, "--x", "solver=euler,ddpm", "--steps", 3)
    assert code == 0, err
    lines = said.splitlines()
    assert lines[0].startswith("solver") and len(lines[:5]) == 5 and lines[-1] == str(out)
    assert "8 steps" in said and "draws noise: " in said
    with out.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["grid"] for row in rows] == ["karras(smallest=0.02, largest=80)"] * 2 + ["uniform()"] * 2
    assert list(rows[0]) == ["solver", "grid", "nfe", "seconds", "distance", "note"]
    assert float(rows[0]["distance"]) > 0 and rows[1]["distance"] == "" and rows[1]["note"] == "draws noise"
    told = json.loads(Image.open(out).text["reverie-compare"])
    assert told["x"] == {"name": "solver", "values": ["euler", "ddpm"]} and len(told["cells"]) == 4
    assert told["cells"][2]["settings"]["grid"] == "uniform()" and told["cells"][2]["reference"]["steps"] == 8
    assert told["cells"][0]["model"]["given"] == str(model) and told["cells"][1]["reference"] is None
    with pytest.raises(UserError, match="is a comparison of several settings"):
        metadata.read(out)
    before = out.read_bytes()
    assert command(capsys, *asked, "--x", "solver=euler,ddpm", "--steps", 3)[0] == 0
    assert out.read_bytes() == before and sorted(p.name for p in out.parent.iterdir()) == ["grid.csv", "grid.png"]


def test_json_is_a_line_per_cell(capsys, model, tmp_path):
    asked = ("--from", tmp_path / "p.png", "--x", "steps=2,3", "--json", "--reference", 0, "--out", tmp_path / "g.png")
    metadata.save(picture_of(SYSTEM, seed=9, solver="heun"), SYSTEM, tmp_path / "p.png", str(model))
    code, said, err = command(capsys, *asked)
    assert code == 0, err
    lines = [json.loads(line) for line in said.splitlines()]
    assert [(line["steps"], line["nfe"], line["distance"], line["note"]) for line in lines] == [(2, 3, None, ""), (3, 5, None, "")]
    told = json.loads(Image.open(tmp_path / "g.png").text["reverie-compare"])["cells"][0]["settings"]
    assert (told["seed"], told["solver"], told["prompt"]) == (9, "heun", ["a man"])


def test_models_are_compared(capsys, model, tmp_path):
    save(small_system(), tmp_path / "other.safetensors")
    asked = ("--y", f"model={model},{tmp_path / 'other.safetensors'}", "--reference", 0, "--steps", 1, "--json")
    code, said, err = command(capsys, "a bold man", *asked, "--out", tmp_path / "g.png")
    assert code == 0 and next(json.loads(line)["model"] for line in said.splitlines()) == str(model)
    assert err.count("'bold'") == 1  # said once for all cells


@pytest.mark.parametrize("moment", ["drawing", "writing"])
def test_ctrl_c_leaves_no_half_written_file(capsys, model, tmp_path, monkeypatch, moment):
    def stop(self, path, *anything, **more):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    out = tmp_path / "g.png"
    out.write_text("older")
    if moment == "writing":
        monkeypatch.setattr(Image.Image, "save", stop)
    else:
        monkeypatch.setattr("reverie.tasks.compare._result", lambda *anything: stop(None, tmp_path / ".x.part"))
    code, _, _ = command(capsys, "a man", "--model", model, "--x", "steps=1,2", "--reference", 0, "--out", out)
    (tmp_path / ".x.part").unlink(missing_ok=True)
    assert code == 130 and out.read_text() == "older" and list(tmp_path.iterdir()) == [out]


def test_commas_inside_brackets_and_quotes_belong_to_the_value():
    assert split("5, 10,20") == ["5", "10", "20"]
    assert split("karras(smallest=0.02, largest=80),uniform()") == ["karras(smallest=0.02, largest=80)", "uniform()"]
    assert split('"a man, bald",a 5" nail, a :) man') == ['"a man, bald"', 'a 5" nail', "a :) man"]
    assert split("") == [""] and split("5,,6") == ["5", "", "6"]
    for text in ("karras(rho=7,uniform()", '"a man,b'):
        with pytest.raises(UserError, match="open"):
            split(text)


BAD = {
    "no axis": ([], "nothing to compare"),
    "unknown axis": (["--x", "stepz=5"], "Did you mean 'steps'?"),
    "count": (["--x", "count=5"], "'count' is no setting to compare"),
    "the same twice": (["--x", "steps=5", "--y", "steps=6"], "'steps' is on both axes"),
    "given and on an axis": (["--x", "steps=5", "--steps", "6"], "leave out --steps"),
    "prompt and on an axis": (["--x", "prompt=b"], "leave out the prompt"),
    "no values": (["--x", "steps"], "SETTING=VALUE"),
    "empty": (["--x", "steps="], "--x: steps has an empty value"),
    "an empty one": (["--y", "steps=5,,6"], "--y: steps has an empty value"),
    "a word for a number": (["--x", "steps=5,many"], "many"),
    "steps": (["--x", "steps=5,0"], "steps is 0; it must be at least 1"),
    "negative seed": (["--x", "seed=-1"], "seed is -1"),
    "solver": (["--x", "solver=euler,dpmpp2m"], "Did you mean 'dpmpp-2m'?"),
    "style": (["--x", "style=mica"], "Did you mean 'micah'?"),
    "grid": (["--x", "grid=karas()"], "Did you mean 'karras'?"),
    "bracket": (["--x", "grid=karras(rho=7,uniform()"], "leaves a bracket or a quote open"),
    "guidance": (["--x", "guidance=nan"], "guidance is nan"),
    "no such model": (["--x", "model=reverie-avatar"], "reverie-avatars"),
    "jpg": (["--x", "steps=5", "--out", "grid.jpg"], ".png"),
    "place": (["--x", "steps=5", "--out", "/proc/no/grid.png"], "cannot write /proc/no/grid.png"),
    "table's place": (["--x", "steps=5", "--out", "taken.png"], "cannot write taken.csv"),
    "reference": (["--x", "steps=5", "--reference", "-1"], "the reference has -1 steps"),
    "long reference": (["--x", "steps=5", "--reference", "1000000"], "the reference cannot be made: steps is 1000000"),
    "flag": (["--x", "steps=5", "--z", "seed=1"], "--x"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(capsys, model, tmp_path, monkeypatch, case):
    arguments, remedy = BAD[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.csv").mkdir()
    own = [] if "model=" in str(arguments) else ["--model", model]
    code, out, err = command(capsys, "a man", *own, *arguments)
    assert code == 2 and out == ""
    assert remedy in err and len(err.strip().splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["taken.csv"]


def test_what_only_the_model_can_say_is_said_before_the_first_picture():
    bare = replace(SYSTEM, encoders={})
    with pytest.raises(UserError, match="takes no prompt"):
        prepare({"model": "bare", "prompt": ""}, Axis("prompt", ("", "a man")), NONE, load=lambda name: bare)
