"""Every recipe there is makes a step, and its file opens; the words of avatars are understood."""

import gzip
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from test_data_sets import colours, idx

from reverie.cli import main
from reverie.data.avatars import PART, VALUES, tell
from reverie.data.packed import Packed, read, write
from reverie.encode import Classes, Concepts
from reverie.errors import UserError
from reverie.nets.text import TextConfig
from reverie.nets.unet import UNetConfig
from reverie.systems.control import open_control, open_image_prompt
from reverie.systems.control.beside import Trained
from reverie.systems.control.naming import WordEncoderRecipe, named
from reverie.systems.control.prompting import ImagePromptRecipe
from reverie.systems.recipes import RECIPES
from reverie.systems.system import Part, System
from reverie.systems.weights import load_any, save
from reverie.tasks.cascade import Enlarge
from reverie.tasks.control import Show, Steer
from reverie.tasks.generate import generate
from reverie.tasks.mend import Mend
from reverie.tasks.train import Session
from reverie.train import Run, Training, fit
from reverie.train.wording import Wording


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Data for the recipes whose own is not packaged; and a few of the avatars, which are many to read once for each recipe."""
    clothes, pictures = tmp_path_factory.mktemp("clothes"), tmp_path_factory.mktemp("pictures")
    packed, few = read(PART), tmp_path_factory.mktemp("avatars") / "few.safetensors"
    write(few, replace(packed, images=packed.images[:400], attributes=packed.attributes[:400], labels=None))
    images, labels = colours(40, 28)[:, 0], np.arange(40, dtype=np.uint8) % 10
    (clothes / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (clothes / "train-labels-idx1-ubyte").write_bytes(idx(labels))
    generate(replace_system(), count=4, seed=1)[0].save(pictures / "0.png")
    for k in range(1, 12):
        (pictures / f"{k}.png").write_bytes((pictures / "0.png").read_bytes())
    return {"fashion-mnist": str(clothes), "folder": str(pictures), "avatars": str(few)}


def replace_system():
    from small import small_system

    return small_system()


ELSEWHERE = {"emoji", "emoji-words", "emoji-reader", "avatars-autoencoder", "avatars-latent"} | {
    "avatars-edges-plus",
    "avatars-sketch-lora",
    "avatars-low-lora",
}
"""What needs other data, or a control to begin from; tested with the emoji, the latent recipe, and controls."""


def shown(system):
    """What a net that changes pictures needs besides words."""
    if "damaged" not in system.encoders:
        return []
    image = Image.new("RGB", system.defaults.size, "red")
    return [Enlarge((image,)) if system.encoders["damaged"].factor > 1 else Mend(image)]


@pytest.mark.parametrize("name", sorted(set(RECIPES) - ELSEWHERE))
def test_every_recipe_trains(name, places, tmp_path):
    preset = RECIPES[name]
    training = replace(preset.training, steps=2, batch=4, holdout=8, snapshots=0)
    source = getattr(preset, "source", "")
    recipe = replace(preset, training=training, **({"data": places[source]} if source in places else {}))
    if name == "avatars-128":  # whose set does not come with the package
        recipe = replace(recipe, size=64)
    session = Session.open(recipe, tmp_path, resume=False)
    assert all(np.isfinite(now.loss) for now in session) and session.run.step == 2
    if isinstance(recipe, WordEncoderRecipe):
        said = named(tmp_path, session.system.base, [np.zeros((3, 64, 64), dtype=np.uint8)], "sks")
        assert said.name == "sks" and all(torch.isfinite(v).all() for v in said.vectors.values())
        return
    if isinstance(session.system, Trained):
        what = open_image_prompt if isinstance(recipe, ImagePromptRecipe) else open_control
        again = what(tmp_path / "palette.safetensors" if getattr(recipe, "shared", 0) else tmp_path, session.system.base)
        assert again.net.config == session.system.net.config
        if isinstance(recipe, ImagePromptRecipe):
            assert len(generate(session.system.base, "", tasks=[Show((again,), (Image.new("RGB", (9, 9)),))], steps=1)) == 1
            return
        told = Steer((again,), (Image.new("RGB", (64, 64), "red"),), (again.hint,) if recipe.shared else recipe.hints[:1])
        assert len(generate(session.system.base, "", tasks=[told], steps=1)) == 1
        return
    again = load_any(tmp_path / "model.safetensors")
    assert type(again) is type(session.system)
    if isinstance(again, System):
        assert len(generate(again, recipe.prompts(again)[0], tasks=shown(again), steps=1)) == 1


def test_the_emoji_set_can_be_trained_on(tmp_path):
    drawn = tuple({"style": "noto", "group": "food", "label": f"fruit {k}"} for k in range(20))
    values = {name: sorted({a[name] for a in drawn}) for name in ("style", "group", "label")}
    write(tmp_path / "emoji", Packed("emoji", "-", "-", colours(20, 32), drawn, extra={"tags": {}}, values=values))
    preset = RECIPES["folder"]
    training = replace(preset.training, steps=1, batch=4, holdout=2, snapshots=0)
    recipe = replace(preset, source="emoji", data=str(tmp_path / "emoji"), training=training)
    for now in (session := Session.open(recipe, tmp_path / "run", resume=False)):
        assert np.isfinite(now.loss)
    assert "fruit" in session.system.encoders["prompt"].vocabulary
    with pytest.raises(UserError, match="32x32, not 64x64"):
        replace(recipe, size=64).pictures()


def test_a_recipe_can_learn_the_variance_of_its_steps(places, tmp_path):
    preset = RECIPES["folder"]
    objective = replace(preset.objective, variance=0.001)
    training = replace(preset.training, steps=2, batch=4, holdout=2, snapshots=0)
    net = UNetConfig(channels=8, out_channels=6, mult=(1,), attention=(), groups=4)
    recipe = replace(preset, net=net, size=16, data=places["folder"], objective=objective, training=training)
    session = Session.open(recipe, tmp_path, resume=False)
    assert all(np.isfinite(now.loss) for now in session)
    again = load_any(tmp_path / "model.safetensors")
    assert again.denoiser.learned_variance and len(generate(again, "", steps=2)) == 1
    with pytest.raises(UserError, match="6 out; this data needs 3 and 3"):
        replace(recipe, objective=preset.objective).prepare(recipe.pictures())
    with pytest.raises(UserError, match="cannot be had together"):
        replace(objective, weight="min_snr()").laws(0)


def test_clothes_are_told_apart_by_class_and_avatars_by_concepts(places):
    clothes = replace(RECIPES["fashion-mnist"], data=places["fashion-mnist"])
    assert isinstance(clothes.prepare(clothes.pictures())[0].encoders["class"], Classes)
    assert isinstance(RECIPES["avatars"].prepare(RECIPES["avatars"].pictures())[0].encoders["prompt"], Concepts)


def test_a_piece_that_a_model_does_not_have_is_named(places, tmp_path):
    save(Part(), tmp_path / "empty.safetensors")
    recipe = replace(RECIPES["folder"], data=places["folder"], words=None)
    for given, said in (
        ({"wording": str(tmp_path / "empty.safetensors")}, "has no text encoder"),
        ({"codec": str(tmp_path / "empty.safetensors"), "shrink": 2}, "name a model that has an enlarger"),
    ):
        with pytest.raises(UserError, match=said):
            replace(recipe, **given).prepare(recipe.pictures())


@pytest.mark.parametrize("path", ["gaussian()", "flow(noise=3)", "flow(noise=vp())", "edm(sigma_max=-1)"])
def test_a_path_on_the_command_line_must_be_one(capsys, tmp_path, path):
    with pytest.raises(SystemExit) as left:
        main(["train", "toy-2d", "--steps", "1", "--out", str(tmp_path), "--objective.path", path])
    said = capsys.readouterr().err
    assert left.value.code == 2 and "Traceback" not in said and said.count("\n") == 1 and ("path" in said or "sigma_max" in said)


HUES = ("red", "blue", "green", "pink", "black")


def hair_and_shirt(rng):
    """Two colours and whose they are, in either order."""
    hair, shirt = (HUES[int(rng.random() * len(HUES))] for _ in range(2))
    said = [f"{hair} hair", f"a {shirt} shirt"]
    return " and ".join(said if rng.random() < 0.5 else said[::-1]), {"hair": (hair,), "shirt": (shirt,)}


def misread(kernel, folder):
    """What a small encoder still gets wrong after two thousand captions."""
    torch.manual_seed(1)
    words = (*HUES, "a", "and", "hair", "shirt")
    text = TextConfig(vocabulary=2 + len(words), width=32, depth=1, heads=2, length=8, kernel=kernel)
    held = [hair_and_shirt(np.random.default_rng(k)) for k in range(200)]
    job = Wording(Concepts(words, text, {"hair": HUES, "shirt": HUES}), hair_and_shirt, held)
    training = Training(steps=60, batch=32, rate=3e-3, warmup=10, widths=(0.1,), snapshots=0, bf16=False)
    for _ in fit(Run(job, training, folder)):
        continue
    return job.validate()


def test_neighbours_tell_which_colour_belongs_to_what(tmp_path):
    """Without the convolution an encoder stays for long where it knows the colours, but not whose they are."""
    assert misread(3, tmp_path) < 0.2 < 0.3 < misread(0, tmp_path)


def test_what_is_told_is_what_is_asked():
    encoder = Concepts(("glasses",), TextConfig(vocabulary=3, width=8, depth=1, heads=1, length=4), VALUES)
    job = Wording(encoder, tell, [])
    vague, silent, told = ([("glasses", t)] for t in ({"glasses": ("round", "square")}, {}, {"glasses": ("round",)}))
    assert [job._targets(t, "glasses")[0].tolist() for t in (vague, silent, told)] == [
        [0.0, 0.0, 0.5, 0.5, 0.0],
        [1.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 1.0, 0.0, 0.0],
    ]
    logits = {name: logit.log_softmax(1) for name, logit in encoder.logits(["glasses"]).items()}
    own = -sum(float(logit[0, 0].detach()) for name, logit in logits.items() if name != "glasses")
    own -= float((logits["glasses"][0, 2] + logits["glasses"][0, 3]).detach()) / 2
    assert float(job.misread(vague).detach()) == pytest.approx(own / len(logits), rel=1e-5)


def test_concepts_say_what_they_understood():
    encoder = Concepts(
        ("red", "round"), TextConfig(vocabulary=4, width=8, depth=1, heads=1, length=4), {"hair": ("red", "blue"), "hat": ("red",)}
    )
    with torch.no_grad():
        encoder.heads.weight.zero_()
        encoder.heads.bias.copy_(torch.tensor([0.0, 9.0, 0.0, 9.0, 0.0]))
    assert encoder.understood("red") == {"hair": "red"}
    vector = encoder.prompts(["red", ""]).vector
    assert vector.shape == (2, 5)
    torch.testing.assert_close(vector[:, :3].sum(1), torch.full((2,), 3.0).sqrt())
