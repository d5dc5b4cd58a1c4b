"""Generating: seeds, batches, strictness, files; and everything that can be asked wrongly."""

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import WORDS, picture_of, small_system

from reverie import oracle
from reverie.cli import main
from reverie.encode import Words
from reverie.encode.asked import read
from reverie.encode.words import split
from reverie.errors import UserError
from reverie.nets.text import TextConfig
from reverie.rng import Rng
from reverie.systems import load, save
from reverie.systems.toy.recipe import TOY
from reverie.tasks import metadata
from reverie.tasks.generate import generate, steps, to_images
from reverie.tasks.settings import settle
from reverie.tasks.start import plan

SYSTEM = small_system()


def pixels(images):
    return np.stack([np.asarray(i).astype(int) for i in images])


def test_image_k_of_a_call_is_the_image_alone_with_its_seed():
    together = pixels(generate(SYSTEM, "a bald man", seed=7, count=3, strict=True))
    alone = pixels([generate(SYSTEM, "a bald man", seed=7 + k, strict=True)[0] for k in range(3)])
    assert (together == alone).all()
    quick = pixels(generate(SYSTEM, "a bald man", seed=7, count=3))
    assert abs(quick - alone).max() <= 1
    assert abs(together[0] - together[1]).max() > 1


def test_batch_size_changes_nothing_in_strict_mode():
    one = pixels(generate(SYSTEM, ["a man", "red hair"], seed=1, count=2, strict=True, batch=1))
    four = pixels(generate(SYSTEM, ["a man", "red hair"], seed=1, count=2, strict=True, batch=4))
    assert (one == four).all()


MIXED = ["a man", "a bald man with red hair", "", "red hair micah style with a bald man"]


def test_prompts_of_any_length_share_a_call():
    """The rooms of the nets that bf16 would enlarge: no bit of a prompt's condition depends on the prompts beside it."""
    torch.manual_seed(1)
    text = TextConfig(vocabulary=2 + len(WORDS), width=64, depth=2, heads=4, length=24, kernel=3)
    encoder = Words(WORDS, text).eval().requires_grad_(False)
    together = read(encoder, MIXED, (16, 16))
    for k, prompt in enumerate(MIXED):
        one = read(encoder, [prompt], (16, 16))
        assert torch.equal(one.vector[0], together.vector[k]) and torch.equal(one.tokens[0], together.tokens[k])
    words = Words(WORDS, replace(text, width=16)).requires_grad_(False)
    system = replace(SYSTEM, encoders={"prompt": words}, denoiser=small_system().denoiser)
    system.denoiser.autocast = torch.bfloat16
    alike = pixels([generate(system, prompt, seed=3)[0] for prompt in MIXED])
    assert all(abs(alike[k] - alike[:k]).max((1, 2, 3)).min() > 1 for k in range(1, 4))  # or what follows says nothing
    for strict, levels in ((False, 1), (True, 0)):
        together = pixels(generate(system, MIXED, seed=3, strict=strict))
        each = [generate(system, prompt, seed=3 + k, strict=strict)[0] for k, prompt in enumerate(MIXED)]
        assert abs(together - pixels(each)).max() <= levels


def test_guidance_0_leaves_the_prompt_out():
    without = pixels(generate(SYSTEM, "", seed=2, guidance=1))
    alike = abs(pixels(generate(SYSTEM, "a bald man", seed=2, guidance=0)) - without)
    assert alike.max() <= 1  # a batch of two, whose last bits may differ from those of one
    assert abs(pixels(generate(SYSTEM, "a bald man", seed=2, guidance=1)) - without).max() > 1


def test_style_is_said_in_words():
    said = pixels(generate(SYSTEM, "a man, micah style", seed=1))
    assert abs(said - pixels(generate(SYSTEM, "a man", seed=1))).max() > 1  # or the test says nothing
    assert (pixels(generate(SYSTEM, "a man", style="micah", seed=1)) == said).all()
    picture = picture_of(SYSTEM, style="micah")
    assert picture.prompt == "a man, micah style"
    assert (picture.settings.prompt, picture.settings.style) == (("a man",), "micah")


def test_every_step_is_yielded_and_can_be_looked_at():
    seen = list(steps(SYSTEM, "a man", seed=1, steps=5))
    assert [s.step.index for s in seen] == [0, 1, 2, 3, 4]
    assert seen[-1].pictures()[0].size == (16, 16)
    assert (pixels(seen[-1].pictures()) == pixels(generate(SYSTEM, "a man", seed=1, steps=5))).all()  # the last step returns x0


def test_a_saved_system_is_the_same(model):
    again = load(model)
    assert (pixels(generate(again, "a man", seed=3)) == pixels(generate(SYSTEM, "a man", seed=3))).all()
    assert again.defaults == SYSTEM.defaults and again.styles == ("micah",)


def test_points_are_a_picture_each(capsys, tmp_path):
    points = TOY.prepare(TOY.pictures())[0]
    save(points, tmp_path / "points.safetensors")
    files, _ = made(capsys, "--model", tmp_path / "points.safetensors", "--count", 4, "--steps", 2, "--out", tmp_path)
    assert [np.asarray(Image.open(p)).astype(int).sum() for p in files] == [255] * 4
    drawn = points.codec.decode(torch.tensor([[-1.5, 0.01], [9.0, -9.0]]))
    assert drawn.shape == (2, 1, 64, 64) and drawn[0, 0, 32, 0] == drawn[1, 0, 0, 63] == 1


def test_a_prompt_that_is_no_text_is_named():
    with pytest.raises(UserError, match="prompt is 5; this model reads words"):
        generate(SYSTEM, 5)


def command(capsys, *arguments):
    """(exit code, stdout, stderr) of a command line."""
    code = 0
    try:
        main([str(a) for a in arguments])
    except SystemExit as stop:
        code = stop.code or 0
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command_writes_pictures_that_repeat_themselves(capsys, model, tmp_path):
    first = tmp_path / "first"
    asked = ("--seed", 5, "--count", 2, "--out", first, "--json", "--strict")
    code, out, _ = command(capsys, "generate", "a man", "--model", model, *asked)
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["seed"] for line in lines] == [5, 6]
    assert all(line["nfe"] == 4 for line in lines)
    code, out, _ = command(capsys, "generate", "--from", lines[1]["file"], "--model", model, "--out", tmp_path / "again")
    again = out.strip().splitlines()[-1]
    assert (pixels([Image.open(again)]) == pixels([Image.open(lines[1]["file"])])).all()


def test_unknown_words_are_named(capsys, model, tmp_path):
    _, _, err = command(capsys, "generate", "a bold man", "--model", model, "--out", tmp_path)
    assert "'bold'" in err and "'bald'" in err
    _, _, err = command(capsys, "generate", "a лысый man", "--negative", "hare", "--model", model, "--out", tmp_path)
    assert "'лысый'" in err and "'hare'" in err and "'hair'" in err


def test_python_is_warned_of_unknown_words_once():
    with pytest.warns(UserWarning, match="'bold'.*; '赤い'.*; 'hare'") as said:
        generate(SYSTEM, ["a bold man", "a bold 赤い man"], negative="hare", steps=1)
    assert len(said) == 1
    with pytest.warns(UserWarning, match="'bold'"):
        steps(SYSTEM, "a bold man", steps=1)


def test_words_are_parted_as_ever_and_of_any_script():
    assert split("A Bald-man's 2 T-shirts_x, Straße МУЖ") == ["a", "bald", "mans", "2", "t", "shirts", "x", "strasse", "муж"]


def made(capsys, *arguments):
    """(the files a command wrote, stderr)."""
    code, out, err = command(capsys, "generate", *arguments)
    assert code == 0, err
    return [Path(line) for line in out.splitlines()], err


def test_what_is_given_wins_over_the_picture(capsys, model, tmp_path):
    out = ("--out", tmp_path)
    (first,), _ = made(capsys, "a man", "--style", "micah", "--seed", 5, "--negative", "red", "--strict", "--model", model, *out)
    given = ("--seed", 0, "--style", "", "--negative", "", "--no-strict", "--guidance", 2, "--batch", 16)
    (again,), err = made(capsys, "--from", first, *given, *out)  # the model is where it was
    assert err.count("reverie:") == 0
    settings = metadata.read(again).settings
    assert (settings.seed, settings.style, settings.negative, settings.strict) == (0, "", "", False)
    assert settings.prompt == ("a man",) and settings.batch == 16
    kept = metadata.read(made(capsys, "--from", first, *out)[0][0]).settings
    assert kept == metadata.read(first).settings and kept.style == "micah"


def test_no_file_is_overwritten(capsys, model, tmp_path):
    asked = ("a man", "--model", model, "--out", tmp_path)
    (first,), _ = made(capsys, *asked)
    before = first.read_bytes()
    (second,), _ = made(capsys, "--from", first, "--steps", 2, "--out", tmp_path)
    (third,), _ = made(capsys, *asked)
    assert [p.name for p in (first, second, third)] == ["00000-a-man.png", "00000-a-man-2.png", "00000-a-man-3.png"]
    assert first.read_bytes() == before


@pytest.mark.parametrize("letter", ["\U0001d400", "赤", "я"])
def test_a_long_prompt_of_any_script_gives_a_name_the_disk_takes(capsys, model, tmp_path, letter):
    (path,), _ = made(capsys, letter * 80, "--model", model, "--steps", 1, "--out", tmp_path)
    assert path.is_file() and path.stem == f"00000-{letter * (120 // len(letter.encode()))}"


def test_what_an_unconditional_model_cannot_heed_is_said(capsys, tmp_path):
    save(TOY.prepare(TOY.pictures())[0], tmp_path / "points.safetensors")
    asked = ("--model", tmp_path / "points.safetensors", "--steps", 2)
    for words, said in ((("--negative", "red"), "negative prompt"), (("--guidance", 4), "guidance 4.0"), ((), "")):
        _, err = made(capsys, *asked, *words, "--out", tmp_path)
        assert (f"toy-2d is unconditional, so the {said}" in err.replace("so guid", "so the guid")) == bool(said)
    code, _, err = command(capsys, "compare", *asked, "--x", "guidance=2,3", "--reference", 0, "--out", tmp_path / "c.png")
    assert code == 0 and "so guidance 2.0 has no effect" in err and "so guidance 3.0 has no effect" in err


def test_another_model_than_the_pictures_is_named(capsys, model, tmp_path):
    (first,), _ = made(capsys, "a man", "--model", model, "--out", tmp_path)
    other = small_system()
    next(other.denoiser.parameters()).mul_(2)
    save(other, tmp_path / "other.safetensors")
    _, err = made(capsys, "--from", first, "--model", tmp_path / "other.safetensors", "--out", tmp_path)
    assert "is not the model that made" in err
    gone = tmp_path / "gone.png"
    metadata.save(picture_of(SYSTEM), SYSTEM, gone, "nowhere.safetensors")
    code, _, err = command(capsys, "generate", "--from", gone, "--out", tmp_path)
    assert code == 2 and "nowhere.safetensors" in err and "--model" in err


def test_the_bar_is_gone_before_an_error_is_said(capsys, model, tmp_path, monkeypatch):
    def full(*anything):
        raise UserError("the disk is full")

    monkeypatch.setattr(sys.modules["reverie.tasks.generate"], "_finish", full)
    monkeypatch.setattr(importlib.import_module("reverie.data.sets"), "generate_file", full)
    for asked in (["generate", "a man", "--model", model, "--out", tmp_path], ["data", "avatars", "--out", tmp_path / "a"]):
        code, _, err = command(capsys, *asked)
        assert code == 2 and err.replace("\r", "\n").splitlines()[-1] == "reverie: the disk is full"


def test_a_solver_is_known_by_any_tools_name(capsys, model, tmp_path):
    def settings(*asked):
        files, _ = made(capsys, "--model", model, "--steps", 3, "--out", tmp_path, *asked)
        found = metadata.read(Path(files[0])).settings
        return found.solver, found.grid

    own = SYSTEM.defaults.grid
    assert settings("--solver", "Euler a") == ("euler-a", own)
    assert settings("--solver", "dpm++ 2m sgm uniform") == ("dpmpp-2m", "sgm_uniform()")
    assert settings("--solver", "DPM++ 2M Karras", "--grid", "uniform()") == ("dpmpp-2m", "uniform()")
    assert settings("--grid", "knots(1.0, 0.6, 0.2)") == (SYSTEM.defaults.solver, "knots(1.0, 0.6, 0.2)")
    first = tmp_path / "first.png"
    metadata.save(picture_of(SYSTEM, solver="heun", grid="uniform()"), SYSTEM, first)
    assert settings("--from", first) == ("heun", "uniform()")
    assert settings("--from", first, "--solver", "euler") == ("euler", "uniform()")
    assert settings("--from", first, "--solver", "euler_k") == ("euler", "karras()")


BAD = {
    "style": (["generate", "a man", "--style", "mica", "--model", "MODEL"], "micah"),
    "solver": (["generate", "a man", "--solver", "dpmpp2m", "--model", "MODEL"], "dpmpp-2m"),
    "flag": (["generate", "a man", "--stepz", "4", "--model", "MODEL"], "--steps"),
    "grid": (["generate", "a man", "--grid", "karas()", "--model", "MODEL"], "karras"),
    "grid's range": (["generate", "a man", "--grid", "karras(rho=0)", "--model", "MODEL"], "rho is 0"),
    "grid's end": (["generate", "a man", "--grid", "karras(smallest=-1)", "--model", "MODEL"], "smallest is -1"),
    "grid's kind": (["generate", "a man", "--grid", "trailing(table='a')", "--model", "MODEL"], "table"),
    "grid's count": (["generate", "a man", "--grid", "knots(1, 0.6)", "--steps", "3", "--model", "MODEL"], "ask for 2, or list 3"),
    "grid's list": (["generate", "a man", "--grid", "knots(0.6, 1)", "--model", "MODEL"], "must fall"),
    "tool's solver": (["generate", "a man", "--solver", "euler_cfg_pp", "--model", "MODEL"], "CFG++ is a form of guidance"),
    "no grid": (["generate", "a man", "--grid", "3", "--model", "MODEL"], "not a constructor"),
    "many steps": (["generate", "a man", "--steps", "10000000000000", "--model", "MODEL"], "at most 100000"),
    "bytes": (["generate", "a \udcff man", "--model", "MODEL"], "UTF-8"),
    "negative steps": (["generate", "a man", "--steps=-3", "--model", "MODEL"], "steps is -3"),
    "steps in words": (["generate", "a man", "--steps", "many", "--model", "MODEL"], "steps"),
    "count": (["generate", "a man", "--count", "0", "--model", "MODEL"], "count"),
    "model": (["generate", "a man", "--model", "reverie-avatar"], "reverie-avatars"),
    "no file": (["generate", "a man", "--model", "nowhere.safetensors"], "nowhere.safetensors"),
    "folder": (["generate", "a man", "--model", "MODEL", "--out", "/proc/no"], "--out"),
    "from": (["generate", "--from", "none.png", "--model", "MODEL"], "none.png"),
    "long from": (["generate", "--from", "x" * 300, "--model", "MODEL"], "is not there"),
    "command": (["generat"], "generate"),
    "positional": (["evaluate", "--model", "x"], "without a flag: reverie evaluate MODEL"),
    "no positional": (["evaluate", "--modle", "x"], "Known: --data, --samples,"),
    "recipe": (["train", "fashion"], "fashion-mnist"),
    "field": (["train", "toy-2d", "--batchs", "3"], "--batch"),
    "field without a prefix": (["train", "toy-2d", "--net.widht", "3"], "Did you mean '--net.width'?"),
    "place": (["train", "toy-2d", "--place.out", "x"], "Known: --name, --about, --shape, "),
    "data": (["data", "avatar"], "avatars"),
    "count without a file": (["data", "avatars", "--count", "4"], "--count is for new pictures"),
    "seed of a sheet": (["data", "avatars", "--seed=-1"], "--seed is -1"),
    "seed of tuning": (["tune", "MODEL", "--seed=-1"], "--seed is -1"),
    "size without a file": (["data", "avatars", "--size", "32"], "--size is for new pictures"),
    "style without a file": (["data", "emoji", "--path", "x", "--style", "noto"], "--style is for new pictures"),
    "count of emoji": (["data", "emoji", "--count", "4", "--out", "x"], "--count does nothing"),
    "path of what is made": (["data", "avatars", "--path", "y", "--out", "x"], "--path does nothing"),
    "size of clothes": (["data", "fashion-mnist", "--size", "32"], "--size does nothing"),
    "style of a folder": (["data", "folder", "--path", ".", "--style", "micah"], "--style does nothing"),
    "clothes to a file": (["data", "fashion-mnist", "--out", "x"], "cannot be made"),
    "clip": (["train", "avatars", "--sampling.clip", "1"], "--sampling.clip"),
    "batch": (["train", "toy-2d", "--batch", "0"], "batch is 0"),
    "rule": (["train", "toy-2d", "--objective.rule", "velocty()"], "velocity"),
    "path": (["train", "toy-2d", "--objective.path", "flow(shif=3)"], "shift"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(capsys, model, tmp_path, monkeypatch, case):
    arguments, remedy = BAD[case]
    monkeypatch.chdir(tmp_path)
    code, out, err = command(capsys, *[model if a == "MODEL" else a for a in arguments])
    assert code == 2
    assert out == ""
    assert remedy in err
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in err


EARLY = {
    "--steps 0": "steps is 0",
    "--count 0": "count is 0",
    "--batch 0": "batch is 0",
    "--width 0": "width is 0",
    "--seed -1": "seed is -1",
    "--handover 3": "handover is 3",
    "--guidance nan": "guidance is nan",
    "--solver dpmpp2m": "Did you mean 'dpmpp-2m'?",
    "--grid karas()": "karras",
    "--tile -1": "tile is -1",
    "--parts nowhere": "parts is 'nowhere'",
    "--device toaster": "take one of auto, cpu",
    "--refiner nowhere.safetensors": "the refiner nowhere.safetensors is not there",
    "--refiner reverie-avatar": "no model is called 'reverie-avatar'",
    "--out file": "file is a file): choose another folder with --out",
    "--out file/in": "choose another folder with --out",
}


@pytest.mark.parametrize("words", EARLY)
@pytest.mark.parametrize("command_of", ["generate", "compare"])
def test_what_cannot_be_is_refused_before_the_model_is_loaded(capsys, tmp_path, monkeypatch, words, command_of):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("reverie.systems.shipped.load", lambda *_: pytest.fail("loaded"))
    options = ["--x", "seed=1,2"] if command_of == "compare" else []
    if command_of == "compare" and words.startswith(("--out", "--seed")):
        return
    code, _, err = command(capsys, command_of, "a man", *words.split(" "), *options)
    assert code == 2 and EARLY[words] in err and len(err.splitlines()) == 1 and [*tmp_path.iterdir()] == [tmp_path / "file"]


@pytest.mark.parametrize("axis", ["steps=5,0", "solver=euler,eulr", "guidance=1,nan", "grid=karras(),karas()"])
def test_a_cell_that_cannot_be_is_refused_before_the_model_is_loaded(capsys, tmp_path, monkeypatch, axis):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("reverie.systems.shipped.load", lambda *_: pytest.fail("loaded"))
    code, _, err = command(capsys, "compare", "a man", "--x", axis)
    assert code == 2 and axis[:3] in err


@pytest.mark.parametrize("words", ["--steps 0", "--guidance nan", "--solver eulr", "--seed -1", "--batch 0"])
def test_what_cannot_be_measured_is_refused_before_the_model_is_loaded(capsys, monkeypatch, words):
    monkeypatch.setattr("reverie.systems.shipped.load", lambda *_: pytest.fail("loaded"))
    assert command(capsys, "evaluate", *words.split())[0] == 2


def test_unknown_settings_name_the_nearest():
    with pytest.raises(UserError, match="guidance"):
        generate(SYSTEM, "a man", guidence=3)


def test_a_sampler_that_diverges_says_so():
    class Diverging:
        def __call__(self, x, t, cond=None):
            return torch.full_like(x, torch.nan)

    wrong = replace(SYSTEM, denoiser=Diverging())
    wrong.denoiser.path = SYSTEM.denoiser.path
    with pytest.raises(UserError, match="NaN"):
        generate(wrong, "a man")


def test_the_command_line_ends_without_a_traceback_in_a_process(tmp_path):
    code = "from reverie.cli import main; main(['generate', 'x', '--model', 'none.safetensors'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("words", [["solvers"], ["solvers", "--help"], ["--help"], ["train"]])
def test_a_reader_that_has_gone_is_no_error(words):
    read, write = os.pipe()
    os.close(read)
    code = f"from reverie.cli import main; main({words})"
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_grid_that_begins_below_the_top_starts_from_the_noise_of_its_own_first_time():
    path = SYSTEM.denoiser.path  # EDM's: a deviation of 80 at the top, 1.6 at t = 0.02
    model = oracle.gaussian(path, torch.full((3, 16, 16), 0.1), 0.3)
    image = generate(replace(SYSTEM, denoiser=model, encoders={}), seed=4, solver="ddim", grid="knots(0.02)", steps=1)[0]
    x = (path.sigma(torch.tensor(0.02)) ** 2 + 1).sqrt() * path.noise((1, 3, 16, 16), Rng.of(4).fold("prior"))
    assert abs(pixels([image])[0] - pixels(to_images(model(x, 0.02)))[0]).max() <= 1
    assert pixels([image]).std() > 5


def test_a_listed_grid_says_how_many_steps_there_are():
    images = {
        n: pixels(generate(SYSTEM, seed=4, grid="knots(1.0, 0.4, 0.1, 0)", **said)) for n, said in ((0, {}), (3, {"steps": 3}))
    }
    assert (images[0] == images[3]).all()
    with pytest.raises(UserError, match="lists 3 steps, and 4 are asked for"):
        generate(SYSTEM, seed=4, grid="knots(1.0, 0.4, 0.1)", steps=4)


def test_pictures_of_any_size_that_the_net_can_make():
    image = generate(SYSTEM, "a man", seed=2, height=24, width=32, steps=2)[0]
    assert image.size == (32, 24)
    with pytest.raises(UserError, match=r"width is 33, but .* multiples of 2: try 32x24"):
        generate(SYSTEM, "a man", height=24, width=33)
    with pytest.raises(UserError, match="height is 0"):
        generate(SYSTEM, "a man", height=0)


def test_a_grid_that_goes_by_the_size_of_the_picture_is_told_it():
    grids = [plan(SYSTEM, settle(SYSTEM, "", {"grid": "sd3_shift()", "height": n, "width": n}))[1] for n in (16, 64)]
    assert not torch.equal(*grids)
    told = plan(SYSTEM, settle(SYSTEM, "", {"grid": "sd3_shift(width=16, height=16)", "height": 64, "width": 64}))[1]
    assert torch.equal(told, grids[0])
