"""What a picture tells of its making, and everything that can be wrong in it."""

import json
from dataclasses import replace

import pytest
from PIL import Image, PngImagePlugin
from small import picture_of, small_system

from reverie.errors import UserError
from reverie.solve import SOLVERS, called
from reverie.tasks import metadata

SYSTEM = small_system()


def test_metadata_round_trip(tmp_path):
    picture = picture_of(SYSTEM, prompt='red hair, "quoted": yes', negative="bald", seed=9, steps=3, guidance=2.5, solver="heun")
    path = tmp_path / "p.png"
    metadata.save(picture, SYSTEM, path)
    told = metadata.read(path)
    assert told.model == "small"
    assert told.settings == picture.settings
    text = Image.open(path).text["parameters"]
    assert text.splitlines()[0] == 'red hair, "quoted": yes'
    assert "Steps: 3, Sampler: Heun" in text and "CFG scale: 2.5, Seed: 9, Size: 16x16" in text


def test_a1111_text_alone_is_enough(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a man\nNegative prompt: red\nSteps: 6, Sampler: DPM++ 2M, CFG scale: 3.5, Seed: 12, Size: 16x16")
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png", pnginfo=info)
    settings = metadata.read(tmp_path / "a.png").settings
    assert (settings.prompt, settings.negative, settings.steps) == (("a man",), "red", 6)
    assert (settings.solver, settings.guidance, settings.seed) == ("dpmpp-2m", 3.5, 12)


A1111 = {
    "DPM++ 2M Karras": ("dpmpp-2m", "karras()"),  # before A1111 1.9
    "DPM++ 2M, Schedule type: Karras": ("dpmpp-2m", "karras()"),
    "DPM++ 3M SDE, Schedule type: SGM Uniform": ("dpmpp-3m-sde-published", "sgm_uniform()"),
    "Euler a, Schedule type: Automatic": ("euler-a", None),
    "UniPC, Schedule type: Uniform": ("unipc-3-bh1", "normal()"),
    "Heun, Schedule type: Beta": ("heun", "beta_ratios()"),
    "Something new, Schedule type: Karras": ("Something new", "karras()"),
}


@pytest.mark.parametrize("said", A1111)
def test_a1111_names_are_ours(tmp_path, said):
    text = f"a man\nSteps: 6, Sampler: {said}, CFG scale: 3.5, Seed: 12, Size: 16x16"
    settings = metadata.read(told(tmp_path / "a.png", "parameters", text)).settings
    assert (settings.solver, settings.grid) == A1111[said]


@pytest.mark.parametrize("solver", SOLVERS)
def test_our_names_are_said_as_a1111_says_them(tmp_path, solver):
    if solver == "ddpm-learned":  # the little net has learnt no variance
        return
    drawn = picture_of(SYSTEM, steps=1)
    for grid in ("sgm_uniform()", "beta()", "uniform()"):
        made = replace(drawn, settings=replace(drawn.settings, solver=solver, grid=grid, steps=2))
        metadata.save(made, SYSTEM, tmp_path / "p.png")
        said = Image.open(tmp_path / "p.png").text["parameters"]
        assert f"Sampler: {called(solver, 'a1111') or solver}, Schedule type: " in said
        assert ("Schedule type: SGM Uniform" in said and "Grid:" not in said) == (grid == "sgm_uniform()")
        settings = metadata.read(told(tmp_path / "a.png", "parameters", said)).settings
        assert (settings.solver, settings.grid) == (solver, grid)


@pytest.mark.parametrize("grid", ["karras(smallest=0.01)", "lam_uniform()"])
def test_a1111_text_of_our_own_keeps_the_grid(tmp_path, grid):
    metadata.save(picture_of(SYSTEM, grid=grid), SYSTEM, tmp_path / "p.png")
    said = Image.open(tmp_path / "p.png").text["parameters"]
    assert "Schedule type: " + {"k": "Karras", "l": "Lam uniform"}[grid[0]] in said
    assert metadata.read(told(tmp_path / "a.png", "parameters", said)).settings.grid == grid


def told(path, name, text):
    """A picture that carries this text."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(name, text)
    Image.new("RGB", (4, 4)).save(path, pnginfo=info)
    return path


WRONG = {
    "steps": ("20", True, 10**13, 0, {}),
    "seed": (1.5, None, -1),
    "solver": ([1], 5),
    "grid": ({},),
    "negative": (None, [], 1.5),
    "prompt": (None, ["a"], "\ud800"),
    "guidance": ("3", float("nan"), 10**400),
    "strict": (1,),
    "style": (5,),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_setting_of_the_wrong_kind_is_named(tmp_path, name):
    for value in WRONG[name]:
        text = json.dumps({"settings": {"prompt": "a man", name: value}, "model": {"name": "small"}})
        with pytest.raises(UserError, match=rf"p.png: {name} is "):
            metadata.read(told(tmp_path / "p.png", "reverie", text))


@pytest.mark.parametrize("pair", ['Model: "bad\\q"', "Seed: 1.5", "CFG scale: much", "Steps: -4"])
def test_a_pair_of_a1111_that_cannot_be_read_is_named(tmp_path, pair):
    path = told(tmp_path / "a.png", "parameters", f"a man\nSampler: Euler, Size: 4x4, Version: 1, {pair}")
    with pytest.raises(UserError, match=f"a.png: (?i:{pair.partition(':')[0]}) is "):
        metadata.read(path)


@pytest.mark.parametrize("text", ['{"settings": 3}', "{", '{"settings": {"prompt": "a"}, "model": 5}', "[" * 5000])
def test_damaged_metadata_is_one_clear_error(tmp_path, text):
    info = PngImagePlugin.PngInfo()
    info.add_text("reverie", text)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(UserError, match="damaged"):
        metadata.read(tmp_path / "a.png")
