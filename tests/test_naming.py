"""Words that an encoder says for what one picture shows: how it learns, what adapts from it, and what it does not fit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from small import small_system
from test_control_training import SCENES, SHORT, changed, small_recipe, values

from reverie.cli import main
from reverie.codec import Pixels
from reverie.errors import UserError
from reverie.files import load_tensors
from reverie.nets.word_encoder import WordEncoder, WordEncoderConfig
from reverie.systems import save
from reverie.systems.control import open_control, open_image_prompt
from reverie.systems.control.naming import initial, named
from reverie.systems.embeddings import readers
from reverie.systems.weights import load
from reverie.tasks.train import Session
from reverie.train import Run, fit
from reverie.train.jobs import to_signal
from reverie.train.objective import uniform
from reverie.train.steering import Naming

COLOURS = to_signal(SCENES).mean((2, 3))


def encoder_of(words, **more):
    first = initial(words, "man", 2)
    shape = {"kind": "projection", "embed": 3, "tokens": 2, "hidden": 16, "vectors": 2, "widths": (first.shape[1],)}
    return WordEncoder(WordEncoderConfig(**shape | more), (first,))


def naming(system, net):
    x0, words = to_signal(SCENES), system.prompt_encoder
    told = {"encoder": words, "prompt": lambda i, rng: "a man", "held_prompt": lambda i, rng: "a man"}
    more = {"learnt": net, "readers": tuple(readers(words).values()), "codec": Pixels(3)}
    look = lambda index, rng: COLOURS[index]  # noqa: E731
    return Naming(system.denoiser, x0, x0[:8], view=look, held_view=look, times=uniform(), **told, **more)


def test_each_picture_has_a_word_of_its_own():
    """What is said is what the encoder of text makes of these vectors, whoever stands beside in the batch; the known words stay."""
    system = small_system()
    words, net = system.prompt_encoder, encoder_of(system.prompt_encoder)
    job = naming(system, net)
    torch.nn.init.normal_(net.out[0].weight, std=0.1)
    words.learnt().add("sks", torch.ones(1, 16))
    with torch.no_grad():
        cond = job._cond(["a man", ""], COLOURS[:2])
        for k, text in enumerate(("a man, {}", "{}")):
            alone = small_system().prompt_encoder
            alone.learnt().add("it", net(COLOURS[k : k + 1])[0][0])
            expected = alone.prompts([text.format("it")])
            torch.testing.assert_close(cond.tokens[k : k + 1], expected.tokens, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(cond.vector[k : k + 1], expected.vector, atol=1e-5, rtol=1e-4)
    assert (cond.vector[0] - cond.vector[1]).abs().max() > 1e-3
    assert list(words.learnt().names) == ["sks"] and torch.equal(words.learnt().of("sks"), torch.ones(1, 16))


def test_at_first_it_says_the_known_word():
    words = small_system().prompt_encoder
    (said,) = encoder_of(words)(COLOURS[:3])
    assert torch.equal(said, initial(words, "man", 2).expand(3, -1, -1))


def test_it_learns_to_say_what_draws_a_picture(tmp_path):
    system = small_system()
    net = encoder_of(system.prompt_encoder)
    job = naming(system, net)
    before, was, model, words = values(net), job.validate(), values(system.denoiser), values(system.prompt_encoder)
    list(fit(Run(job, replace(SHORT, steps=40), tmp_path)))
    assert job.validate() < 0.98 * was
    assert {name.split(".")[0] for name in changed(net, before)} == {"tokens", "enter", "out"}, "all of it learns"
    assert not changed(system.denoiser, model) and not changed(system.prompt_encoder, words)
    assert job.shown().shape == (24, 3, 16, 16)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model, a run of an encoder for it, and one picture."""
    folder = tmp_path_factory.mktemp("naming")
    save(replace(small_system(), about={"name": "small"}), folder / "small.safetensors")
    for k, picture in enumerate(SCENES):
        where = folder / ("all" if k else "one")
        where.mkdir(exist_ok=True)
        Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).save(where / f"{k}.png")
    recipe = small_recipe(
        "avatars-subject", base=str(folder / "small.safetensors"), tokens=2, hidden=64, depth=1, size=16, initial="man"
    )
    recipe = replace(recipe, source="folder", data=str(folder / "all"), training=replace(recipe.training, steps=4, warmup=1))
    list(Session.open(recipe, folder / "run", resume=False))
    return folder


def adapt(place, out, *words):
    given = ("--model", str(place / "small.safetensors"), "--begin", str(place / "run"), "--data", str(place / "one"))
    main(["adapt", "encoder", *given, "--word", "sks", "--threads", "1", "--out", str(out), *words])
    return out


def test_from_one_picture_to_a_word_and_changes(place, tmp_path, capsys):
    out = adapt(place, tmp_path / "out", "--updates", "2", "--batch", "2")
    vectors = load_tensors(out / "embedding.safetensors")[0]["sks"]
    base = load(place / "small.safetensors")
    begun = named(place / "run", base, [SCENES[0]], "sks").vectors[""]
    assert 0 < (vectors - begun).abs().max() < 0.05, "it begins as the encoder says, and learns a little"
    assert (begun - named(place / "run", base, [SCENES[5]], "sks").vectors[""]).abs().max() > 1e-6
    both = named(place / "run", base, [SCENES[0], SCENES[5]], "sks").vectors[""]
    torch.testing.assert_close(both, (begun + named(place / "run", base, [SCENES[5]], "sks").vectors[""]) / 2)
    use = ("--lora", str(out / "lora.safetensors"), "--embedding", str(out / "embedding.safetensors"))
    model = str(place / "small.safetensors")
    main(["generate", "a sks", "--model", model, *use, "--steps", "1", "--out", str(tmp_path / "drawn")])
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 1
    again = ("--data", str(place / "one"), "--model", model, "--out", str(tmp_path / "again"), "--threads", "1")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["repro", str(out / "embedding.safetensors"), *again])
    assert "name it with --begin" in capsys.readouterr().err
    main(["repro", str(out / "embedding.safetensors"), *again, "--begin", str(place / "run")])
    assert "the same, bit for bit" in capsys.readouterr().out
    assert str(place) not in str(load_tensors(out / "embedding.safetensors")[1])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--begin", ""], "encoder needs what says the word"),
        (["--begin", "nowhere"], "nowhere"),
        (["--begin", "{small}"], "is a model of ours and no control"),
        (["--initial", "man"], "neither --initial nor --vectors"),
        (["--vectors", "2"], "neither --initial nor --vectors"),
        (["--model", "reverie-avatars"], "words \\(16,\\) wide"),
    ],
)
def test_what_cannot_be_is_said(place, tmp_path, capsys, words, said):
    with pytest.raises(SystemExit):
        adapt(place, tmp_path / "out", *[word.format(small=place / "small.safetensors") for word in words])
    told = capsys.readouterr().err
    assert said.replace("\\", "") in told and "Traceback" not in told


def test_it_is_no_control_and_no_image_prompt(place):
    base = load(place / "small.safetensors")
    for opened in (open_control, open_image_prompt):
        with pytest.raises(UserError, match="says a word for a picture: give it to `reverie adapt encoder`"):
            opened(place / "run", base)


def test_a_model_without_words_has_no_such_encoder():
    system = replace(small_system(), encoders={})
    with pytest.raises(UserError, match="small has no encoder that could learn a word"):
        small_recipe("avatars-subject").made(system)
    with pytest.raises(UserError, match="--vectors is 0"):
        small_recipe("avatars-subject", vectors=0).made(small_system())
    with pytest.raises(UserError, match="holds no word"):
        small_recipe("avatars-subject", initial="zebra").made(small_system())
