"""What was learnt is learnt again from its file and its pictures, bit for bit; others are refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small import small_system

from reverie.cli import main
from reverie.systems import save


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, pictures with captions, and what was learnt of them."""
    folder = tmp_path_factory.mktemp("repro")
    save(small_system(), folder / "model.safetensors")
    (folder / "pictures").mkdir()
    made = np.random.default_rng(0)
    for k in range(6):
        Image.fromarray(made.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / "pictures" / f"{k}.png")
        (folder / "pictures" / f"{k}.txt").write_text("a man with red hair")
    words = ["--word", "sks", "--caption", "{} sks", "--rank", "2", "--updates", "5", "--batch", "4", "--threads", "1"]
    main(["adapt", "pivotal", *words, *given(folder), "--out", str(folder / "run")])
    return folder


def given(folder):
    return ["--data", str(folder / "pictures"), "--model", str(folder / "model.safetensors")]


@pytest.mark.parametrize("what", ["lora", "embedding"])
def test_it_is_learnt_again_bit_for_bit(what, place, tmp_path, capsys):
    main(["repro", str(place / "run" / f"{what}.safetensors"), *given(place), "--out", str(tmp_path / "again"), "--threads", "1"])
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "the same, bit for bit" and said[-2] == str(tmp_path / "again" / f"{what}.safetensors")


def changed(place, tmp_path, edit=lambda tensors: None, **about):
    """A copy of the file, with other tensors or another word about it."""
    with safe_open(place / "run" / "lora.safetensors", "pt") as file:
        metadata = file.metadata()
    card = json.loads(metadata["reverie.card"])
    card["about"] |= about
    tensors = load_file(place / "run" / "lora.safetensors")
    edit(tensors)
    save_file(tensors, tmp_path / "x.safetensors", {**metadata, "reverie.card": json.dumps(card)})
    return str(tmp_path / "x.safetensors")


def test_what_is_another_is_said(place, tmp_path, capsys):
    file = changed(place, tmp_path, lambda tensors: next(iter(tensors.values())).mul_(1.5), version="0.0.1")
    with pytest.raises(SystemExit) as stop:
        main(["repro", file, *given(place), "--out", str(tmp_path / "again"), "--threads", "1"])
    said = capsys.readouterr().out
    assert stop.value.code == 1 and "apart by" in said and "made by reverie 0.0.1" in said


def refused(said, capsys, *words):
    with pytest.raises(SystemExit) as stop:
        main(["repro", *words])
    assert stop.value.code == 2 and said in capsys.readouterr().err


def test_what_cannot_be_made_again_is_refused(place, tmp_path, capsys):
    file = str(place / "run" / "lora.safetensors")
    refused("takes a file and the pictures", capsys, file)
    refused("name the file of that model with --model", capsys, file, "--data", str(place / "pictures"))
    refused("written at step 5 of 9", capsys, changed(place, tmp_path, planned=9), *given(place))
    save_file({"a": torch.zeros(1)}, tmp_path / "y.safetensors")
    refused("holds no recipe", capsys, str(tmp_path / "y.safetensors"), *given(place))
    torch.manual_seed(1)
    other = small_system()
    next(other.denoiser.parameters()).data.add_(1.0)
    save(other, tmp_path / "other.safetensors")
    words = ["--data", str(place / "pictures"), "--model", str(tmp_path / "other.safetensors")]
    refused("other weights than small", capsys, file, *words)
    (tmp_path / "pictures").mkdir()
    for path in (place / "pictures").iterdir():
        (tmp_path / "pictures" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "pictures" / "0.txt").write_text("a woman")
    words = ["--data", str(tmp_path / "pictures"), "--model", str(place / "model.safetensors")]
    refused("are not those that", capsys, file, *words)
