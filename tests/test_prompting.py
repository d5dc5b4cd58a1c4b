"""Training of image prompts: the encoder, what learns, what is left out; the file, and what it does not fit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from small import small_system
from test_control_images import Colours
from test_control_training import SCENES, SHORT, changed, small_recipe, values

from reverie.adapt import ImagePrompt, ImagePrompted
from reverie.adapt.image_prompt import sites
from reverie.cli import main
from reverie.codec import Pixels
from reverie.denoiser import Denoiser
from reverie.encode.lite0 import Lite0
from reverie.errors import UserError
from reverie.nets.dit import DiT, DiTConfig
from reverie.nets.image_prompt import ImagePromptConfig, ImagePromptNet
from reverie.process import rules, schedules
from reverie.systems import Sampling, System, save
from reverie.systems.control import open_control, open_image_prompt
from reverie.systems.control.kept import SHIPPED, save_control
from reverie.systems.weights import load
from reverie.tasks import generate
from reverie.tasks.control import Show
from reverie.tasks.train import Session
from reverie.train import Run, fit
from reverie.train.jobs import to_signal
from reverie.train.loop import Key
from reverie.train.objective import uniform
from reverie.train.steering import Prompting

PHOTO = Image.fromarray(np.ascontiguousarray(SCENES[0].transpose(1, 2, 0)))


@pytest.mark.parametrize("places", [True, False])
def test_what_the_encoder_says(places):
    """Of the middle square, of each picture as of it alone; nothing of no picture, and something of a black one."""
    eye = Lite0(4)
    x = to_signal(SCENES[:3])
    said = eye.said(x, places)
    assert said.shape == ((3, 16, 435) if places else (3, 1280)) and eye.width(places) == said.shape[-1]
    torch.testing.assert_close(eye.said(x[1:2], places), said[1:2], atol=1e-4, rtol=1e-4)
    wide = torch.nn.functional.pad(x, (6, 7), value=0.5)
    torch.testing.assert_close(eye.said(wide, places), said, atol=1e-4, rtol=1e-4)
    assert (said[0] - said[1]).abs().max() > 0.1
    assert not eye.unsaid(x, places).any() and eye.unsaid(x, places).shape == said.shape
    assert eye.said(-torch.ones(1, 3, 16, 16), places).any()
    assert not any(p.requires_grad for p in eye.parameters())


@pytest.mark.parametrize("across", [0, 3, -2])
def test_places_come_in_pairs(across):
    with pytest.raises(UserError, match="an even number"):
        Lite0(across)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a short training, its session, and what the model was before."""
    folder = tmp_path_factory.mktemp("picture")
    recipe = small_recipe("avatars-picture", tokens=3, hidden=64, depth=1)
    recipe = replace(recipe, training=replace(recipe.training, steps=4, warmup=1, decay=0.0))
    session = Session.open(recipe, folder / "run", resume=False)
    job = session.run.job
    before = values(job.denoiser.model), values(job.encoder)
    list(session)
    return folder, session, before


def test_the_net_alone_learns(run):
    _, session, (model, words) = run
    job = session.run.job
    assert np.isfinite(job.validate())
    assert not changed(job.denoiser.model, model) and not changed(job.encoder, words)
    learnt = session.system.net
    assert all(bool(layer.weight.any()) for layer in learnt.v), "at each attention something is said"
    assert learnt.config.vector == 78 and learnt.word.leave.weight.any(), "and where it hears words"
    assert {name for name, p in session.run.job.module.named_parameters() if p.requires_grad} == {
        f"control.{name}" for name, _ in learnt.named_parameters()
    }
    assert job.shown().shape[:2] == (24, 3)


def test_pictures_are_drawn_better_by_what_is_seen_of_them(tmp_path):
    system, x0 = small_system(), to_signal(SCENES)
    at, widths = sites(system.denoiser, x0[:1], system.prompt_encoder.prompts([""]))
    net = ImagePromptNet(ImagePromptConfig(embed=3, tokens=2, width=16, sites=widths, at=at))
    model = ImagePrompted(system.denoiser, [ImagePrompt(net=net, eye=Colours())])

    def view(index, rng):
        return Colours().said(x0[index], False)

    words = {"encoder": system.prompt_encoder, "prompt": lambda i, rng: "a man", "held_prompt": lambda i, rng: "a man"}
    job = Prompting(model, x0, x0[:8], learnt=net, view=view, held_view=view, times=uniform(), codec=Pixels(3), **words)
    run = Run(job, replace(SHORT, steps=40), tmp_path)
    was, before = job.validate(), values(net)
    list(fit(run))
    assert job.validate() < 0.97 * was
    assert {name.split(".")[0] for name in changed(net, before)} == {"tokens", "k", "v"}, "all of it learns"


def test_some_pictures_are_not_shown(run):
    recipe = run[1].recipe
    look = replace(recipe, drop_pictures=0.5).view(SCENES)
    rows = np.arange(240) % 24
    seen, again = look(rows, np.random.default_rng(0)), look(rows, np.random.default_rng(0))
    shown = seen.flatten(1).any(1)
    assert 0.38 < shown.float().mean() < 0.62 and torch.equal(seen, again)
    every = replace(recipe, drop_pictures=0.0).view(SCENES)(np.arange(24), np.random.default_rng(0))
    assert torch.equal(seen[shown], every[torch.from_numpy(rows)[shown]]), "once known, a picture is what it was"
    torch.testing.assert_close(every, Lite0().said(to_signal(SCENES), True), atol=2e-2, rtol=1e-2)


def test_a_run_draws_what_it_sees(run):
    folder, _, _ = run
    base = run[1].system.base
    adapter = open_image_prompt(folder / "run", base)
    assert adapter.name == "run" and adapter.net.config.at == "self" and isinstance(adapter.eye, Lite0)
    other = Image.fromarray(np.ascontiguousarray(SCENES[1].transpose(1, 2, 0)))

    def drawn(*tasks, guidance=1.0):
        return np.asarray(generate(base, "", steps=2, guidance=guidance, tasks=list(tasks))[0]).astype(int)

    plain, one, two = drawn(), drawn(Show((adapter,), (PHOTO,))), drawn(Show((adapter,), (other,)))
    assert np.abs(plain - one).max() > 0 and np.abs(one - two).max() > 0
    silent = drawn(Show((replace(adapter, weight=0.0),), (PHOTO,)))
    assert np.array_equal(plain, silent)
    guided = drawn(Show((adapter,), (PHOTO,)), guidance=2.0)
    assert np.abs(guided - drawn(guidance=2.0)).max() > 0


def test_from_the_command_line(run, tmp_path, capsys):
    PHOTO.save(tmp_path / "face.png")
    asked = f"image_prompt(net='{run[0] / 'run'}', image='{tmp_path / 'face.png'}')"
    main(["generate", "a man", "--control", asked, "--steps", "1", "--out", str(tmp_path / "out")])
    assert [np.asarray(Image.open(file)).shape for file in (tmp_path / "out").glob("*.png")] == [(64, 64, 3)]
    assert "pretrained" not in "".join(capsys.readouterr())
    control, absent = asked.replace("image_prompt", "control"), asked.replace("/run'", "/no'")
    for wrong, said in ((control, "ask for it as image_prompt"), (absent, "/no")):
        with pytest.raises(SystemExit):
            main(["generate", "a man", "--control", wrong, "--steps", "1"])
        assert said in capsys.readouterr().err


def test_what_it_does_not_fit_is_said(run):
    folder, session, _ = run
    other = small_system()
    with pytest.raises(UserError, match=r"looks in at 6 attentions \(self, 256 wide\), and small has"):
        open_image_prompt(folder / "run", other)
    hears = ImagePromptNet(replace(session.system.net.config, vector=5))
    save_control(hears, folder / "five.safetensors", session.system.base, session.system.about)
    with pytest.raises(UserError, match="says a vector of 5 numbers, and reverie-avatars hears words by one of 78"):
        open_image_prompt(folder / "five.safetensors", session.system.base)
    with pytest.raises(UserError, match=r"is a control, .* ask for it as control"):
        open_image_prompt(SHIPPED["avatars-edges"], session.system.base)
    with pytest.raises(UserError, match="ask for it as image_prompt"):
        open_control(folder / "run", session.system.base)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"drop_pictures": 1.0}, "--drop-pictures is 1.0"),
        ({"tokens": 0}, "each is 1 or more"),
        ({"eye": "lite1()"}, "lite0"),
        ({"eye": "clip(folder='nowhere')"}, "nowhere is not there"),
        ({"eye": "lite0(across=3)"}, "an even number"),
    ],
)
def test_what_cannot_be_is_said(more, said):
    recipe = small_recipe("avatars-picture", **more)
    with pytest.raises(UserError, match=said):
        recipe.prepare(recipe.pictures())


def test_a_model_that_is_told_nothing_sees_a_picture(tmp_path):
    """Without words there is a picture to go by."""
    torch.manual_seed(0)
    net = DiT(DiTConfig(in_channels=3, size=16, patch=4, width=32, depth=2, heads=2, learn_sigma=False))
    for part in net.parameters():
        if not part.any():
            torch.nn.init.normal_(part, std=0.1)
    model = Denoiser(net, schedules.flow(), rules.velocity())
    system = System(
        denoiser=model, codec=Pixels(3), defaults=Sampling(steps=2, guidance=1.0, size=(16, 16)), about={"name": "mute"}
    )
    save(system, tmp_path / "mute.safetensors")
    recipe = small_recipe("avatars-picture", base=str(tmp_path / "mute.safetensors"), tokens=2, hidden=64, depth=1, size=16)
    recipe = replace(recipe, source="folder", data=str(tmp_path / "pictures"))
    (tmp_path / "pictures").mkdir()
    for k, picture in enumerate(SCENES):
        Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).save(tmp_path / "pictures" / f"{k}.png")
    session = Session.open(recipe, tmp_path / "run", resume=False)
    list(session)
    adapter = open_image_prompt(tmp_path / "run", load(tmp_path / "mute.safetensors"))
    assert adapter.net.config.sites == sites(model, torch.zeros(1, 3, 16, 16), None)[1]
    made = [np.asarray(generate(system, "", steps=2, tasks=tasks)[0]).astype(int) for tasks in ([], [Show((adapter,), (PHOTO,))])]
    assert np.abs(made[0] - made[1]).max() > 0


def test_what_a_picture_tells_is_what_its_caption_does(run):
    """The distance to the caption's vector is a part of the loss, and falls with it."""
    job, rows, key = run[1].run.job, np.arange(8), Key(0, 3)
    with torch.no_grad():
        gap, whole = job._misread(rows, key), job.loss(rows, key)
        job.reading = 0.0
        torch.testing.assert_close(whole, job.loss(rows, key) + 0.1 * gap)
        job.reading = 0.1
        captions = job.encoder.prompts([job.prompt(int(i), key.numpy("read")) for i in rows]).vector
        assert job._told(job.view(rows, key.numpy("seen"))).shape == captions.shape == (8, 78)
    optimiser = torch.optim.Adam(job.learnt.parameters(), 1e-3)
    for _ in range(20):
        optimiser.zero_grad()
        job._misread(rows, key).mean().backward()
        optimiser.step()
    assert job._misread(rows, key).mean() < 0.7 * gap.mean()
