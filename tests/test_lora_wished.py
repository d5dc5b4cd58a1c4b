"""LoRAs by name in a prompt, with weights of blocks, and on a part of the way."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from small import small_system

from reverie.adapt.timed import Timed
from reverie.adapt.when import When
from reverie.cli import main
from reverie.errors import UserError
from reverie.nets.lora import adapt, changes
from reverie.systems import save
from reverie.systems.lora import given_loras, open_lora, save_lora, timed_loras, wished
from reverie.systems.lora.places import weights
from reverie.systems.lora.wished import named
from reverie.systems.weights import load
from reverie.tasks import generate, metadata
from reverie.tasks.lora import Passing


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model that reads words, and two LoRAs of it in a folder of their own."""
    folder = tmp_path_factory.mktemp("wished")
    system = small_system()
    for part in system.denoiser.net.parameters():
        torch.nn.init.normal_(part, std=0.1)
    save(system, folder / "model.safetensors")
    for seed, name in enumerate(("ink", "deep/oil paint")):
        made = load(folder / "model.safetensors")
        net = made.denoiser.net
        torch.manual_seed(seed)
        adapt(net, 3)
        for change in changes(net):
            torch.nn.init.normal_(change.up, std=0.1)
        save_lora(made, folder / "loras" / f"{name}.safetensors", {"name": "small", "hash": ""}, {"name": name})
    return folder


def base(place):
    return load(place / "model.safetensors")


def draw(place, out, *words):
    main(["generate", "--steps", "3", "--seed", "4", "--out", str(out), "--model", str(place / "model.safetensors"), *words])


def test_a_prompt_names_files_and_the_picture_says_them(place, tmp_path, capsys):
    ink = str(place / "loras" / "ink.safetensors")
    calls = {
        "named": ["a <lora:ink:0.8> man", "--loras", str(place / "loras")],
        "given": ["a man", "--lora", f"{ink}:0.8"],
        "without": ["a man"],
    }
    files = {}
    for name, words in calls.items():
        draw(place, tmp_path / name, *words)
        files[name] = capsys.readouterr().out.strip()
    pixels = {name: Image.open(file).tobytes() for name, file in files.items()}
    assert pixels["named"] == pixels["given"] != pixels["without"]
    told = metadata.read(Path(files["named"]))
    assert told.settings.prompt == ("a man",) and told.loras == (f"{ink}:0.8",)
    assert Image.open(files["named"]).text["parameters"].startswith("a man <lora:ink:0.8>\n")
    main(["generate", "--from", files["named"], "--out", str(tmp_path / "again")])
    assert Image.open(capsys.readouterr().out.strip()).tobytes() == pixels["named"]
    with Image.open(files["named"]) as image:  # as A1111 would have it, without ours
        metadata.write(image, tmp_path / "theirs.png", {"parameters": image.text["parameters"]})
    main(
        [
            *("generate", "--from", str(tmp_path / "theirs.png"), "--out", str(tmp_path / "theirs")),
            *("--model", str(place / "model.safetensors"), "--loras", str(place / "loras")),
        ]
    )
    assert Image.open(capsys.readouterr().out.strip()).tobytes() == pixels["named"]


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a <lora:inc:1> man", "'<lora:inc:1>' in the prompt: there is no such file in .* Did you mean 'ink'"),
        ("a <lora:ink:strong> man", "a weight is a number"),
        ("a <lora:ink:1:2:3> man", "a weight is a number"),
        ("a <lora:ink:1:0> man", "changes the encoders alone"),
        ("a <lora:../model:1> man", "there is no such file"),
        ("a <lora:ink:nan> man", "the weight of an adapter is nan"),
    ],
)
def test_a_name_that_is_none_is_one_line(prompt, said, place):
    with pytest.raises(UserError, match=said):
        for text in named(prompt, place / "loras")[1]:
            wished(text)


def test_names_in_a_prompt(place, tmp_path):
    loras = place / "loras"
    oil = loras / "deep" / "oil paint.safetensors"
    assert named("a man", tmp_path / "nowhere") == ("a man", [])
    assert named("a <lora:oil paint> man, <hypernet:b>", loras) == ("a man, <hypernet:b>", [f"{oil}:1.0"])
    assert named("a <lora:deep/oil paint:-0.5>", loras) == ("a", [f"{oil}:-0.5"])
    words, texts = named("<lora:ink:0.4:0.8>", loras)
    made = wished(texts[0])
    assert words == "" and made.weight == 0.8 and made.blocks == {"words": 0.5} and made.always
    with pytest.raises(UserError, match="is no folder: name that of the LoRAs with --loras"):
        named("<lora:ink>", tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no LoRA"):
        named("<lora:ink>", tmp_path)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ink.safetensors").write_bytes(oil.read_bytes())
    with pytest.raises(UserError, match="may be a/ink and b/ink: say which"):
        named("<lora:ink>", tmp_path)
    assert named("<lora:b/ink>", tmp_path)[1] == [f"{tmp_path / 'b' / 'ink.safetensors'}:1.0"]


def test_a_plain_prompt_keeps_its_brackets(place, tmp_path, capsys):
    draw(place, tmp_path, "a <lora:nothing:0.8> man", "--plain")
    made = metadata.read(Path(capsys.readouterr().out.strip()))
    assert made.settings.prompt == ("a <lora:nothing:0.8> man",) and made.loras == ()


def test_prompts_that_name_others_are_refused(place, tmp_path, capsys):
    with pytest.raises(SystemExit):
        draw(place, tmp_path, "a <lora:ink> man", "a woman", "--loras", str(place / "loras"))
    assert "draw them one after the other" in capsys.readouterr().err


def ink(place):
    return str(place / "loras" / "ink.safetensors")


def test_blocks_have_weights_of_their_own(place):
    before = {k: v.clone() for k, v in weights(base(place)).items()}
    whole = weights(given_loras(base(place), [f"{ink(place)}:0.8"]))
    blocks = sorted({site.block for site in open_lora(ink(place), base(place)).sites})
    assert len(blocks) >= 3
    first = blocks[0]
    made = weights(given_loras(base(place), [f"lora(file={ink(place)!r}, weight=0.8, blocks={{{first!r}: 0.5}})"]))
    halved = 0
    for site in open_lora(ink(place), base(place)).sites:
        for key in site.stack.keys:
            share = 0.5 if site.block == first else 1.0
            halved += share == 0.5
            torch.testing.assert_close(made[key] - before[key], share * (whole[key] - before[key]), atol=1e-6, rtol=1e-4)
    assert halved
    off = weights(given_loras(base(place), [f"lora(file={ink(place)!r}, blocks={{{', '.join(f'{b!r}: 0' for b in blocks)}}})"]))
    assert all(torch.equal(value, before[key]) for key, value in off.items())
    with pytest.raises(UserError, match=f"has no block 'nothing'.* Known: .*{first}"):
        given_loras(base(place), [f"lora(file={ink(place)!r}, blocks={{'nothing': 1}})"])


X = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
T = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)


@torch.no_grad()
def says(model, t, cond):
    return model(X, t, cond)


def test_on_a_part_of_the_way_it_is_there_and_then_gone(place):
    plain, changed = base(place), given_loras(base(place), [f"{ink(place)}:0.8"])
    cond = plain.prompt_encoder.prompts(["a man"] * 3)
    own = weights(plain)
    before, places = {k: v.clone() for k, v in own.items()}, {k: v.data_ptr() for k, v in own.items()}
    model = Timed(plain.denoiser, own, [(open_lora(ink(place), plain), When(weight=0.8, start=0.3, stop=0.6))])
    for t, other in ((0.9, plain), (0.65, changed), (0.5, changed), (0.3, plain)):
        assert torch.equal(says(model, t, cond), says(other.denoiser, t, cond)), f"at {t}, to the last bit"
        assert {k: v.data_ptr() for k, v in own.items()} == places and all(torch.equal(v, before[k]) for k, v in own.items())
    mixed = says(model, T, cond)  # samples at several times
    for row, other in enumerate((plain, changed, plain)):
        torch.testing.assert_close(mixed[row], says(other.denoiser, T, cond)[row], atol=1e-6, rtol=1e-5)
    made = model.made[1]
    says(model, 0.5, cond)
    says(model, 0.9, cond)
    says(model, 0.6, cond)
    assert made.keys() == model.made[1].keys() and all(made[k] is not own[k] for k in made)


def test_it_is_drawn_with_on_its_part_of_the_way(place, tmp_path, capsys):
    text = f"lora(file={ink(place)!r}, weight=0.8, stop=0.5)"
    images = {}
    for name, lora in (("all", f"{ink(place)}:0.8"), ("part", text), ("whole", text.replace("0.5", "1.0")), ("none", "")):
        draw(place, tmp_path / name, "a man", *(["--lora", lora] if lora else []))
        images[name] = capsys.readouterr().out.strip()
    pixels = {name: Image.open(file).tobytes() for name, file in images.items()}
    assert pixels["all"] == pixels["whole"] and len({pixels[name] for name in ("all", "part", "none")}) == 3
    assert metadata.read(Path(images["part"])).loras == (text,)
    main(["generate", "--from", images["part"], "--out", str(tmp_path / "again")])
    assert Image.open(capsys.readouterr().out.strip()).tobytes() == pixels["part"]
    with pytest.raises(SystemExit):
        draw(place, tmp_path / "x", "a man", "--lora", text, "--offload", "parts")
    assert "leave out --offload" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(
            ["compare", "a man", "--x", "steps=1,2", "--lora", text, "--model", str(place / "model.safetensors"), "--out", "a.png"]
        )
    assert "acts on a part of the way" in capsys.readouterr().err


def test_two_that_follow_each_other_are_drawn_as_by_hand(place):
    texts = [
        f"lora(file={ink(place)!r}, stop=0.4)",
        f"lora(file={str(place / 'loras/deep/oil paint.safetensors')!r}, start=0.4, weight=0.5)",
    ]
    system = given_loras(base(place), texts)
    assert all(torch.equal(v, weights(base(place))[k]) for k, v in weights(system).items()), "the net is as it was"
    task = Passing(timed_loras(system, texts))
    one = generate(system, "a man", [task], seed=1, steps=4, solver="ddim", guidance=2.0)[0].tobytes()
    again = generate(system, "a man", [task], seed=1, steps=4, solver="ddim", guidance=2.0, count=2)[0].tobytes()
    strict = generate(system, "a man", [task], seed=1, steps=4, solver="ddim", guidance=2.0, strict=True)[0].tobytes()
    assert one == again == strict
    first = generate(given_loras(base(place), texts[:1]), "a man", seed=1, steps=4, solver="ddim", guidance=2.0)[0].tobytes()
    assert one != first and all(torch.equal(v, weights(base(place))[k]) for k, v in weights(system).items())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lora(file='a', wait=1)", "lora has no field 'wait'"),
        ("lora(weight=1)", "its field 'file' is missing"),
        ("lora(file='a', start=0.6, stop=0.2)", "an adapter acts from 0.6 to 0.2"),
        ("lora(file='a', blocks={'b': 'c'})", "lora.blocks is"),
        ("lora(file='a', blocks=3)", "lora.blocks is 3"),
        ("lora(file='a', weight=", "is not a constructor|is not there"),
    ],
)
def test_what_cannot_be_asked_for_is_one_line(text, said, place):
    with pytest.raises(UserError, match=said):
        given_loras(base(place), [text])
