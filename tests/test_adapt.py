"""Adapting a model to a folder of pictures: changes alone learn, go on where they stopped, and open as any LoRA does."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from small import small_system

from reverie.cli import main
from reverie.nets.lora import merged_state
from reverie.systems import save
from reverie.systems.adapted import Adapting
from reverie.systems.lora import given_loras
from reverie.systems.lora.places import weights
from reverie.systems.opening import LEARNING
from reverie.systems.shipped import open_model
from reverie.systems.weights import load
from reverie.tasks import generate
from reverie.tasks.train import Session, restored, stored
from reverie.train.training import Training


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model of 16 px and a folder of pictures that are all green."""
    folder = tmp_path_factory.mktemp("adapt")
    system = small_system()
    save(replace(system, about={"name": "small", "recipe": {"samples": ["a man", "a woman"]}}), folder / "model.safetensors")
    (folder / "pictures").mkdir()
    made = np.random.default_rng(0)
    for k in range(12):
        pixels = np.zeros((16, 16, 3), np.uint8)
        pixels[..., 1] = made.integers(180, 255, (16, 16))
        Image.fromarray(pixels).save(folder / "pictures" / f"{k}.png")
    return folder


def adapted(place, out, *words):
    fresh = (
        []
        if "--resume" in words
        else [
            "--data",
            str(place / "pictures"),
            "--model",
            str(place / "model.safetensors"),
            "--caption",
            "a man",
            "--batch",
            "4",
        ]
    )
    main(["adapt", "lora", *words, *fresh, "--threads", "1", "--out", str(out)])
    return out / "lora.safetensors"


def greenness(system, prompt="a man"):
    images = generate(system, prompt, count=8, seed=1, steps=8)
    pixels = np.stack([np.asarray(image) for image in images]).astype(float)
    return pixels[..., 1].mean() - pixels[..., [0, 2]].mean()


def test_a_model_learns_from_a_folder_and_its_file_is_a_lora(place, tmp_path, capsys):
    file = adapted(place, tmp_path / "run", "--updates", "60", "--rate", "1e-2", "--rank", "4")
    assert capsys.readouterr().out.strip() == str(file) and file.stat().st_size < 0.5 * (place / "model.safetensors").stat().st_size
    assert not (tmp_path / "run" / "model.safetensors").exists() and list((tmp_path / "run" / "previews").iterdir())
    base = load(place / "model.safetensors")
    before = greenness(base)
    assert greenness(given_loras(base, [str(file)])) > before + 30
    main(["doctor", str(file), "--model", str(place / "model.safetensors"), "--json"])
    assert '"made for"' not in (said := capsys.readouterr().out) and '"family": "small"' in said and '"unknown": []' in said


def test_the_file_says_what_other_tools_read_and_no_place_of_this_machine(place, tmp_path):
    for words, told in ((["--updates", "2"], True), (["--updates", "2", "--no-metadata"], False)):
        with safe_open(adapted(place, tmp_path / str(told), *words), "pt") as file:
            said = file.metadata()
        assert ("modelspec.architecture" in said) == ("ss_steps" in said) == told and str(place) not in json.dumps(said)
        assert '"data": "pictures"' in said["reverie.card"]
        if told:
            assert said["modelspec.architecture"] == "small/lora" and said["ss_steps"] == "2" and said["ss_network_dim"] == "16"


def test_the_run_goes_on_bit_for_bit(place, tmp_path):
    whole = adapted(place, tmp_path / "whole", "--updates", "6")
    recipe = restored(Adapting(name="small-pictures", model=""), stored(tmp_path / "whole"))
    session = Session.open(recipe, tmp_path / "broken", False)
    for now in session:
        session.run.stop = now.step == 3
    again = adapted(place, tmp_path / "broken", "--resume")
    one, two = (given_loras(load(place / "model.safetensors"), [str(file)]).denoiser.state_dict() for file in (whole, again))
    assert all(torch.equal(v, two[k]) for k, v in one.items())
    learnt = {k for k, v in session.run.job.module.state_dict().items()}
    assert all(k.endswith((".up", ".down")) for k in learnt), "nothing else is trained, averaged or kept"


def learnt(place, out, method, *words):
    base = ["--data", str(place / "pictures"), "--model", str(place / "model.safetensors"), "--batch", "4", "--threads", "1"]
    main(["adapt", method, *words, *base, "--out", str(out)])


WAYS = {
    "lora": (["--encoder", "--convolutions", "--rank", "4", "--rate", "1e-2", "--caption", "a man"], ["lora"]),
    "lora-dora": (["--lengths", "--dropout", "0.1", "--rank", "4", "--rate", "1e-2", "--caption", "a man"], ["lora"]),
    "dreambooth": (["--rate", "3e-3", "--caption", "a man"], ["model"]),
    "dreambooth-lora": (["--rank", "4", "--rate", "1e-2", "--caption", "a man"], ["lora"]),
    "inversion": (["--word", "sks", "--vectors", "2", "--initial", "man", "--rate", "1e-1"], ["embedding"]),
    "pivotal": (["--word", "sks", "--rank", "4", "--rate", "1e-2"], ["lora", "embedding"]),
    "custom": (["--word", "sks", "--rate", "2e-2"], ["lora", "embedding"]),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_method_learns_and_its_files_open(way, place, tmp_path, capsys):
    words, files = WAYS[way]
    learnt(place, tmp_path / "run", way.partition("-")[0], "--updates", "60", *words)
    told = [tmp_path / "run" / f"{name}.safetensors" for name in files]
    assert capsys.readouterr().out.split() == [str(file) for file in told]
    made = {name: [str(file)] for name, file in zip(files, told, strict=True)}
    model = (made.get("model") or [str(place / "model.safetensors")])[0]
    system = open_model(model, loras=made.get("lora", ()), embeddings=made.get("embedding", ()))
    prompt = "sks" if "embedding" in made else "a man"
    least = 2 if way == "inversion" else 20
    assert greenness(system, prompt) > greenness(load(place / "model.safetensors"), "a man") + least


def test_what_is_written_is_what_was_learnt(place, tmp_path, capsys):
    recipe = Adapting(
        name="x", model=str(place / "model.safetensors"), data=str(place / "pictures"), size=16, rank=2, encoder=True, lengths=True,
        whole=r"time", word="sks", caption="sks", training=Training(steps=3, batch=4, rate=1e-2),
    )  # fmt: skip
    session = Session.open(recipe, tmp_path / "run", False)
    for _ in session:
        pass
    with session.run.averaged():
        made = session.system.system
        ours = {f"net.{k}": v for k, v in merged_state(made.denoiser.net).items()}
        ours |= {f"encoder.{k}": v for k, v in merged_state(made.prompt_encoder).items()}
        said = made.prompt_encoder.prompts(["a sks man"]).tokens
    files = {"loras": [str(tmp_path / "run" / "lora.safetensors")], "embeddings": [str(tmp_path / "run" / "embedding.safetensors")]}
    system = open_model(str(place / "model.safetensors"), LEARNING, **files)
    theirs = weights(system)
    moved = [k for k, v in weights(load(place / "model.safetensors")).items() if not torch.equal(v, theirs[k])]
    assert any(k.startswith("encoder.") for k in moved) and any(k.startswith("net.time") for k in moved)
    for key, value in theirs.items():
        torch.testing.assert_close(value.data, ours[key], atol=1e-6, rtol=1e-5, msg=key)
    torch.testing.assert_close(system.prompt_encoder.prompts(["a sks man"]).tokens, said, atol=1e-5, rtol=1e-5)


def test_a_model_draws_first_what_it_is_not_to_forget(place, tmp_path, capsys):
    words = ["--rank", "4", "--caption", "a man", "--updates", "4", "--prior", "3", "--prior-prompt", "red hair"]
    learnt(place, tmp_path / "run", "dreambooth", *words)
    said = capsys.readouterr().err
    found = sorted((tmp_path / "run" / "prior").iterdir())
    assert [file.name for file in found] == ["0000.png", "0001.png", "0002.png"]
    recipe = stored(tmp_path / "run")
    assert recipe["regular"] == str(tmp_path / "run" / "prior") and recipe["regular_caption"] == "red hair"
    own = generate(open_model(str(place / "model.safetensors")), "red hair", seed=1)[0]
    assert np.array_equal(np.asarray(Image.open(found[1])), np.asarray(own)), "as the model draws them"
    assert "a step takes" in said and "each of 11 pictures some 1 times" in said
    found[1].unlink()
    stays = found[0].stat().st_mtime_ns
    learnt(place, tmp_path / "run", "dreambooth", *words[:5], "6", "--resume")
    assert not found[1].exists() and found[0].stat().st_mtime_ns == stays, "a run that goes on draws none"
    with pytest.raises(SystemExit):
        learnt(place, tmp_path / "other", "lora", "--prior", "3")
    assert "give both" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lorra"], "no way to adapt a model is called 'lorra'. Did you mean 'lora'"),
        (["lora", "--rank", "0"], "nothing is to learn"),
        (["lora", "--rank", "-2"], "the rank of a LoRA is -2"),
        (["lora", "--dropout", "1"], "dropout is 1"),
        (["lora", "--layers", "nothing$"], "no layer whose name fits 'nothing$'"),
        (["lora", "--layers", "("], "no regular expression"),
        (["custom", "--word", "sks", "--whole", "nowhere"], "no layer whose name fits --whole 'nowhere'; it has"),
        (["inversion"], "inversion teaches a word"),
        (["inversion", "--word", "a b"], "a name has no spaces"),
        (["inversion", "--word", "sks", "--vectors", "0"], "a word has 1 or more"),
        (["inversion", "--word", "sks", "--initial", "zyx"], "holds no word that this model knows"),
        (["inversion", "--word", "sks", "--caption", "a man"], "does not say the word"),
        (["lora", "--alpha", "-1"], "its alpha -1"),
        (["lora", "--data", ""], "reverie adapt needs pictures: name their folder with --data"),
        (["lora", "--data", "nowhere"], "nowhere"),
        (["lora", "--threads", "-1"], "--threads is -1"),
    ],
)
def test_what_cannot_be_is_one_line(words, said, place, tmp_path, capsys):
    base = ["--data", str(place / "pictures"), "--model", str(place / "model.safetensors"), "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        main(["adapt", words[0], *base, "--updates", "1", *words[1:]])
    assert said in capsys.readouterr().err


def test_one_picture_is_too_few(place, tmp_path, capsys):
    (tmp_path / "one").mkdir()
    Image.new("RGB", (16, 16), "red").save(tmp_path / "one" / "a.png")
    words = ["--data", str(tmp_path / "one"), "--model", str(place / "model.safetensors"), "--out", str(tmp_path / "x")]
    with pytest.raises(SystemExit):
        main(["adapt", "lora", *words, "--updates", "1"])
    assert "1 picture: two are needed at least" in capsys.readouterr().err


def test_the_model_that_ships_learns_a_word(place, tmp_path):
    """Opened from its file, as everybody has it."""
    asked = ("--data", str(place / "pictures"), "--word", "sks", "--updates", "2", "--batch", "2", "--threads", "1")
    main(["adapt", "inversion", *asked, "--out", str(tmp_path)])
    (file,) = tmp_path.glob("embedding.safetensors")
    assert weights_of(file)["sks"].abs().max() > 0
    plain, told = (
        open_model("reverie-avatars", **how).prompt_encoder.prompts(["sks"]).vector for how in ({}, {"embeddings": [str(file)]})
    )
    torch.testing.assert_close(told - plain, weights_of(file)["sks"])


def weights_of(file):
    with safe_open(file, "pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
