"""Words that were learnt: everyone's files, read as their writers read them, refused where they are of another model."""

import copy
import json
from dataclasses import replace

import numpy as np
import published
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from small import small_system

from reverie.cli import main
from reverie.encode import Concepts
from reverie.encode.learnt import Learnt
from reverie.errors import UserError
from reverie.nets.text import TextConfig
from reverie.systems import load, save
from reverie.systems.embeddings import Embedding, given_embeddings, read_embedding, readers, save_embedding, teach
from reverie.systems.opening import Opening
from reverie.systems.shipped import read_model


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_word_is_read_as_its_vectors_and_nothing_else_changes():
    system = small_system()
    words = system.prompt_encoder
    before, state = words.prompts(["a man with red hair"]), set(words.state_dict())
    table = words.words.weight
    teach(system, Embedding("sks", {"": table[[words.ids["red"], words.ids["hair"]]].clone()}))
    after, said = words.prompts(["a man with red hair"]), words.prompts(["a man with sks", "a man with SKS!"])
    assert torch.equal(before.tokens, after.tokens) and torch.equal(said.tokens[0], said.tokens[1])
    torch.testing.assert_close(said.tokens[:1], before.tokens)  # its own rows: red hair
    assert torch.equal(said.mask[:1], before.mask)
    assert set(words.state_dict()) == state, "what is saved of the encoder stays the same"
    assert not words.notes("a sks man") and "'skss' is not a word" in words.notes("a skss man")[0]
    assert torch.equal(copy.deepcopy(words).prompts(["sks"]).tokens, words.prompts(["sks"]).tokens)


def test_the_longest_name_is_read_whole_and_only_whole_words_are():
    learnt = Learnt(3)
    learnt.add("cat", random(1, 3))
    learnt.add("<cat-toy>", random(2, 3))
    learnt.add("cat-toy", random(1, 3))
    found = [(text, list(ids)) for text, ids in learnt.parted("a Cat on <cat-toy>, cats, cat-toy") if ids]
    assert found == [("Cat", [-1]), ("<cat-toy>", [-2, -3]), ("cat-toy", [-4])]
    assert "".join(text for text, _ in learnt.parted("a cat, cats")) == "a cat, cats"


def test_a_bottleneck_adds_its_words():
    torch.manual_seed(0)
    values = {"hair": ["red", "black"], "hat": ["yes"]}
    for apart in (False, True):
        words = Concepts(["red", "hat"], TextConfig(vocabulary=4, width=16, depth=1, heads=2, length=8), values, apart).eval()
        plain, word = words.prompts(["red hat"]), random(1, words.width)
        words.learnt().add("sks", word)
        said = words.prompts(["red sks hat", "red hat"])
        torch.testing.assert_close(said.vector[:1], plain.vector + word)
        torch.testing.assert_close(said.vector[1:], plain.vector)
        assert not words.notes("a sks hat")
        if apart:
            torch.testing.assert_close(said.tokens[0].sum(0), said.vector[0])
        with torch.enable_grad():
            words.learnt().vectors.requires_grad_()
            words.prompts(["sks"]).vector.sum().backward()
        assert words.learnt().vectors.grad.eq(1).all()


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def model(request, tmp_path_factory):
    """A tiny published model in a folder, and the pipeline of diffusers that wrote it."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    pipe = getattr(published, request.param)()
    pipe.save_pretrained(folder)
    return request.param, folder, pipe


def test_words_are_what_diffusers_makes_of_them(model, tmp_path):
    name, folder, pipe = model
    pipe, prompt = copy.deepcopy(pipe), "a <toy> on a (beach), <toy>"
    width = pipe.text_encoder.config.hidden_size
    if name == "sd1":
        save_file({"<toy>": random(3, width)}, tmp_path / "toy.safetensors")
        pipe.load_textual_inversion(str(tmp_path / "toy.safetensors"))
        theirs = pipe.encode_prompt(prompt, "cpu", 1, False)[0]
    else:
        pair = {"clip_l": random(3, width), "clip_g": random(3, pipe.text_encoder_2.config.hidden_size, seed=1)}
        save_file(pair, tmp_path / "toy.safetensors")
        for part, encoder, tokenizer in (
            ("clip_l", pipe.text_encoder, pipe.tokenizer),
            ("clip_g", pipe.text_encoder_2, pipe.tokenizer_2),
        ):
            pipe.load_textual_inversion(pair[part], token="<toy>", text_encoder=encoder, tokenizer=tokenizer)
        theirs = pipe.encode_prompt(prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)[0]
    system = given_embeddings(read_model(str(folder)), [f"<toy>={tmp_path / 'toy.safetensors'}"])
    ours = system.prompt_encoder.prompts([prompt]).tokens
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert (ours - read_model(str(folder)).prompt_encoder.prompts([prompt]).tokens).abs().max() > 1e-3


def test_every_writer_is_read(tmp_path):
    one, two = random(2, 16), random(1, 16, seed=1)
    save_file({"emb_params": one}, tmp_path / "kohya.safetensors")
    save_file({"<a>": one, "<b>": two[0]}, tmp_path / "diffusers.safetensors")
    torch.save(
        {"string_to_param": {"*": torch.nn.Parameter(one)}, "string_to_token": {"*": 265}, "name": "x"}, tmp_path / "a1111.pt"
    )
    save_embedding(tmp_path / "ours.safetensors", [Embedding("<a>", {"": one}), Embedding("<b>", {"": two})], {"name": "x"}, {})
    for file, names in {"kohya": ["kohya"], "diffusers": ["<a>", "<b>"], "ours": ["<a>", "<b>"]}.items():
        found = read_embedding(tmp_path / f"{file}.safetensors")
        assert [word.name for word in found] == names and torch.equal(found[0].vectors[""], one)
        assert all(torch.equal(word.vectors[""], two) for word in found[1:])
    with pytest.raises(UserError, match="is a pickle"):
        read_embedding(tmp_path / "a1111.pt")
    (word,) = read_embedding(tmp_path / "a1111.pt", allow_pickle=True)
    assert word.name == "a1111" and torch.equal(word.vectors[""], one)
    assert read_embedding(tmp_path / "kohya.safetensors", "sks")[0].name == "sks"


def test_the_command_line_draws_with_a_word_and_the_picture_remembers(tmp_path, capsys):
    save(small_system(), tmp_path / "model.safetensors")
    save_file({"emb_params": random(2, 16)}, tmp_path / "sks.safetensors")
    words = ["generate", "a man sks", "--model", str(tmp_path / "model.safetensors"), "--out", str(tmp_path / "out"), "--json"]
    main(words)
    plain = json.loads(capsys.readouterr().out)["file"]
    main([*words, "--embedding", str(tmp_path / "sks.safetensors")])
    made = json.loads(capsys.readouterr().out)["file"]
    main(["generate", "--from", made, "--out", str(tmp_path / "again"), "--json"])
    again = json.loads(capsys.readouterr().out)["file"]
    plain, made, again = (np.asarray(Image.open(file)) for file in (plain, made, again))
    assert np.array_equal(made, again) and not np.array_equal(made, plain)


BAD = {
    "of another width": ({"emb_params": torch.zeros(1, 8)}, "8 wide, and those of small 16"),
    "of a pair": ({"clip_l": torch.zeros(1, 16), "clip_g": torch.zeros(1, 16)}, "and small reads by a single encoder"),
    "no number": ({"emb_params": torch.full((1, 16), torch.nan)}, "holds NaN"),
    "no word": ({"x": torch.zeros(2, 2, 2)}, "holds no words"),
    "a LoRA": ({"a.lora_up.weight": torch.zeros(2), "a.lora_down.weight": torch.zeros(2, 2, 2)}, "a LoRA"),
    "unreadable": ({"a b": torch.zeros(1, 16)}, "a name has no spaces"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_belong_is_refused(case, tmp_path):
    tensors, said = BAD[case]
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=said):
        given_embeddings(small_system(), [str(tmp_path / "x.safetensors")])


def test_a_name_is_taken_once(tmp_path):
    save_file({"emb_params": torch.zeros(1, 16)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="learnt already"):
        given_embeddings(small_system(), [str(tmp_path / "x.safetensors")] * 2)
    with pytest.raises(UserError, match="with --embedding"):
        save_embedding(tmp_path / "y.safetensors", [Embedding("a", {"": torch.zeros(1, 16)})], {}, {})
        load(tmp_path / "y.safetensors")


def test_a_model_without_words_says_so():
    system = replace(small_system(), encoders={})
    assert not readers(system.prompt_encoder)
    with pytest.raises(UserError, match="no encoder that could learn"):
        teach(system, Embedding("a", {"": torch.zeros(1, 16)}))


def test_pickles_with_more_than_tensors_are_refused(tmp_path):
    torch.save({"string_to_param": {"*": print}}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="is refused"):
        given_embeddings(small_system(), [str(tmp_path / "bad.pt")], Opening(allow_pickle=True))
