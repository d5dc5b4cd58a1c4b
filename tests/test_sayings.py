"""What is said of prompts, classes and options that have no effect, or cannot be."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from published import PIPELINES
from small import small_system

from reverie.cli import main
from reverie.cli.drawing import unheeded
from reverie.encode import Classes
from reverie.errors import UserError
from reverie.systems.foreign import open_folder, write_folder
from reverie.tasks.generate import notes
from reverie.tasks.settings import settle

SYSTEM = small_system()


@pytest.mark.parametrize("label", ["banana", "1000", "10000", "kynd"])
def test_a_class_that_is_not_known_is_said_shortly(label):
    with pytest.raises(UserError) as error:
        Classes([f"kind {k}, sort {k}" for k in range(1000)], 4).index(label)
    said = str(error.value)
    assert "classes are 0 to 999, or names such as " in said and said.count(",") <= 5 and len(said) < 200
    with pytest.raises(UserError, match=r"classes are 0 to 9$"):
        Classes([str(k) for k in range(10)], 4).index("10")


def test_a_class_is_known_by_each_of_its_names():
    classes = Classes(["tench, Tinca tinca", "crane", "crane, machine"], 4)
    assert [classes.index(k) for k in ("tench", "Tinca tinca", "tench, Tinca tinca", "machine", "crane", "2")] == [0, 0, 0, 2, 1, 2]


def test_styles_and_sizes_that_cannot_be():
    with pytest.raises(UserError, match="has no styles: leave out the style"):
        settle(replace(SYSTEM, about={"name": "x"}), "a man", {"style": "micah"})
    with pytest.raises(UserError, match=r"^height is 31, but"):
        settle(SYSTEM, "a man", {"height": 31})


@pytest.mark.parametrize(("sign", "said"), [("(red:1.3)", "weights do nothing with this model"), ("<lora:x:1>", "is not applied")])
def test_signs_without_effect_are_said_once(sign, said):
    prompts = ("a man", f"a {sign} man", f"a {sign} man")
    assert len([n for n in notes(SYSTEM, settle(SYSTEM, prompts, {})) if said in n]) == 1
    assert not any(said in n for n in notes(SYSTEM, settle(SYSTEM, prompts, {"plain": True})))
    assert not any(said in n for n in notes(SYSTEM, settle(SYSTEM, "a man", {})))


def test_guidance_of_a_model_of_few_steps_is_said():
    few = replace(SYSTEM, defaults=replace(SYSTEM.defaults, guidance=1.0, steps=4))
    assert "was made to be drawn with guidance 1" in unheeded(few, "", 5.0)[0] and unheeded(few, "", None) == []
    assert "so the negative prompt has no effect" in unheeded(few, "rain", None)[0] and unheeded(SYSTEM, "rain", None) == []


def test_guides_that_change_guidance_alone_are_said_where_there_is_none():
    system = small_system()
    calls = ("apg()", "interval()", "cfg_zero()", "pag()", "threshold()", "autoguide(weak='fashion')")
    said = notes(system, settle(system, ["a man"], {"guidance": 1.0, "guide": calls}))
    assert said == [f"guidance is 1, so {name} has no effect" for name in ("apg", "interval")]  # cfg_zero stands still at first
    assert notes(system, settle(system, ["a man"], {"guidance": 1.5, "guide": calls})) == []


def test_a_picture_beyond_the_positions_of_a_net_is_refused(tmp_path):
    torch.manual_seed(0)
    PIPELINES["sd3"]().save_pretrained(tmp_path)
    system = open_folder(tmp_path)
    most = system.codec.factor * system.denoiser.net.config.largest
    assert settle(system, "x", {"height": most}).height == most
    with pytest.raises(UserError, match=f"is too large for .* places up to {most}x{most}"):
        settle(system, "x", {"height": most + system.codec.factor * system.denoiser.multiple})


def test_pixart_is_written_with_its_own_size_and_scale(tmp_path):
    PIPELINES["pixart"]().save_pretrained(tmp_path / "one")
    place = tmp_path / "one" / "transformer" / "config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"sample_size": 128, "interpolation_scale": 2}))
    write_folder(open_folder(tmp_path / "one"), tmp_path / "two")
    said = json.loads((tmp_path / "two" / "transformer" / "config.json").read_text())
    assert (said["sample_size"], said["interpolation_scale"]) == (128, 2)


def test_the_command_is_a_module_and_names_its_arguments(capsys):
    done = subprocess.run([sys.executable, "-m", "reverie", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "usage: reverie" in done.stdout
    for command, named in (("convert", "MODEL OUT"), ("generate", "PROMPT")):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert named in capsys.readouterr().out


def test_a_stop_is_one_line(capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("reverie.systems.shipped.load", stop)
    with pytest.raises(SystemExit) as stopped:
        main(["generate", "a man"])
    assert stopped.value.code == 130 and capsys.readouterr().err == "reverie: stopped\n"


def test_a_style_is_said_in_each_part_that_and_joins():
    settings = settle(SYSTEM, "a man AND red hair :0.5", {"style": "micah"})
    assert settings.said("a man AND red hair :0.5") == "a man, micah style :1 AND red hair, micah style :0.5"
    assert settings.said("a man") == "a man, micah style"
    assert replace(settings, plain=True).said("a AND b") == "a AND b, micah style"
