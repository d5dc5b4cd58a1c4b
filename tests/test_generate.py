"""Generating: seeds, batches, strictness, metadata, files; and everything that can be asked wrongly."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file, save_file
from small import small_system

from reverie.cli import main
from reverie.errors import UserError
from reverie.systems import load, save
from reverie.tasks import metadata
from reverie.tasks.generate import generate, run, settle, steps

SYSTEM = small_system()


def pixels(images):
    return np.stack([np.asarray(i).astype(int) for i in images])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save(SYSTEM, path)
    return path


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


def test_style_is_said_in_words():
    said = pixels(generate(SYSTEM, "a man, micah style", seed=1))
    assert (pixels(generate(SYSTEM, "a man", style="micah", seed=1)) == said).all()


def test_every_step_is_yielded_and_can_be_looked_at():
    seen = list(steps(SYSTEM, "a man", seed=1, steps=5))
    assert [s.step.index for s in seen] == [0, 1, 2, 3, 4]
    assert seen[-1].pictures()[0].size == (16, 16)
    assert (pixels(seen[-1].pictures()) == pixels(generate(SYSTEM, "a man", seed=1, steps=5))).all()  # the last step returns x0


def test_a_saved_system_is_the_same(model):
    again = load(model)
    assert (pixels(generate(again, "a man", seed=3)) == pixels(generate(SYSTEM, "a man", seed=3))).all()
    assert again.defaults == SYSTEM.defaults and again.styles == ("micah",)


def test_the_clip_of_older_files_is_passed_over(model, tmp_path):
    def older(tensors, about):
        card = json.loads(about["reverie.card"])
        card["defaults"]["clip"] = 0.0
        about["reverie.card"] = json.dumps(card)

    assert load(broken(model, tmp_path, older)).defaults == SYSTEM.defaults


def picture_of(**settings):
    events = list(run(SYSTEM, settle(SYSTEM, settings.pop("prompt", "a man"), settings)))
    return events[-1][0]


def test_metadata_round_trip(tmp_path):
    picture = picture_of(prompt='red hair, "quoted": yes', negative="bald", seed=9, steps=3, guidance=2.5, solver="heun")
    path = tmp_path / "p.png"
    metadata.save(picture, SYSTEM, path)
    settings, name = metadata.read(path)
    assert name == "small"
    assert settings == picture.settings
    text = Image.open(path).text["parameters"]
    assert text.splitlines()[0] == 'red hair, "quoted": yes'
    assert "Steps: 3, Sampler: Heun" in text and "CFG scale: 2.5, Seed: 9, Size: 16x16" in text


def test_a1111_text_alone_is_enough(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a man\nNegative prompt: red\nSteps: 6, Sampler: DPM++ 2M, CFG scale: 3.5, Seed: 12, Size: 16x16")
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png", pnginfo=info)
    settings, _ = metadata.read(tmp_path / "a.png")
    assert (settings.prompt, settings.negative, settings.steps) == (("a man",), "red", 6)
    assert (settings.solver, settings.guidance, settings.seed) == ("dpmpp-2m", 3.5, 12)


@pytest.mark.parametrize("text", ['{"settings": 3}', "{", '{"settings": {"prompt": "a"}, "model": 5}', "[" * 5000])
def test_damaged_metadata_is_one_clear_error(tmp_path, text):
    info = PngImagePlugin.PngInfo()
    info.add_text("reverie", text)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(UserError, match="damaged"):
        metadata.read(tmp_path / "a.png")


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


BAD = {
    "style": (["generate", "a man", "--style", "mica", "--model", "MODEL"], "micah"),
    "solver": (["generate", "a man", "--solver", "dpmpp2m", "--model", "MODEL"], "dpmpp-2m"),
    "flag": (["generate", "a man", "--stepz", "4", "--model", "MODEL"], "--steps"),
    "grid": (["generate", "a man", "--grid", "karas()", "--model", "MODEL"], "karras"),
    "negative steps": (["generate", "a man", "--steps=-3", "--model", "MODEL"], "steps is -3"),
    "steps in words": (["generate", "a man", "--steps", "many", "--model", "MODEL"], "steps"),
    "count": (["generate", "a man", "--count", "0", "--model", "MODEL"], "count"),
    "model": (["generate", "a man", "--model", "reverie-avatar"], "reverie-avatars"),
    "no file": (["generate", "a man", "--model", "nowhere.safetensors"], "nowhere.safetensors"),
    "folder": (["generate", "a man", "--model", "MODEL", "--out", "/proc/no"], "--out"),
    "from": (["generate", "--from", "none.png", "--model", "MODEL"], "none.png"),
    "command": (["generat"], "generate"),
    "recipe": (["train", "fashion"], "fashion-mnist"),
    "field": (["train", "toy-2d", "--batchs", "3"], "--batch"),
    "data": (["data", "avatar"], "avatars"),
    "count without a file": (["data", "avatars", "--count", "4"], "--count is for new pictures"),
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


def broken(model, tmp_path, change):
    path = tmp_path / "broken.safetensors"
    tensors = load_file(model)
    import safetensors

    with safetensors.safe_open(model, "pt") as handle:
        about = dict(handle.metadata())
    change(tensors, about)
    save_file(tensors, path, about)
    return path


def card_change(**fields):
    def change(tensors, about):
        card = json.loads(about["reverie.card"])
        card["denoiser"] |= fields
        about["reverie.card"] = json.dumps(card)

    return change


def first_weight(tensors):
    return next(k for k in tensors if k.endswith("weight"))


def drop_first(tensors, about):
    tensors.pop(first_weight(tensors))


def poison_first(tensors, about):
    tensors[first_weight(tensors)].flatten()[0] = float("nan")


def reshape_first(tensors, about):
    name = first_weight(tensors)
    tensors[name] = torch.zeros(3)


def drop_card(tensors, about):
    about.clear()


MODEL_FAULTS = {
    "NaN": (poison_first, "NaN"),
    "missing weight": (drop_first, "do not fit"),
    "wrong shape": (reshape_first, "do not fit"),
    "no card": (drop_card, "card"),
    "unknown field": (card_change(schedul="x"), "schedul"),
    "unknown rule": (card_change(rule={"name": "velocty"}), "velocity"),
    "unknown argument": (card_change(rule={"name": "edm", "sigma_dat": 1}), "sigma_data"),
}


@pytest.mark.parametrize("fault", MODEL_FAULTS)
def test_a_faulty_model_file_is_named(model, tmp_path, fault):
    change, said = MODEL_FAULTS[fault]
    with pytest.raises(UserError, match=said) as error:
        load(broken(model, tmp_path, change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("keep", [0, 7, 100, 5000, -1])
def test_a_checkpoint_cut_short_is_named(model, tmp_path, keep):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(model.read_bytes()[:keep])
    with pytest.raises(UserError, match="whole safetensors"):
        load(path)


def test_a_pickle_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    torch.save({"a": torch.zeros(3)}, path)
    with pytest.raises(UserError, match="pickle"):
        load(path)


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
