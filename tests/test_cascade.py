"""Nets that see a picture: damages, what is told, mending, enlarging, and cascades from words."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from small import small_system
from test_generate import command, pixels

from reverie.card import parse, rebuild
from reverie.codec import Pixels
from reverie.data.damages import DAMAGES, drawn
from reverie.data.pictures import Pictures
from reverie.denoiser import Denoiser
from reverie.encode import Damaged
from reverie.errors import UserError
from reverie.nets.unet import UNet, UNetConfig
from reverie.process import rules, schedules
from reverie.systems import Sampling, System, load, save
from reverie.systems.recipe import Recipe
from reverie.tasks import Edit, generate, metadata, outpaint, restore, upscale
from reverie.tasks.cascade import Enlarge, cascade
from reverie.tasks.generate import Picture
from reverie.tasks.mend import Mend
from reverie.tasks.settings import settle

X = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
BASE = small_system()


def seeing(factor, level=0.0, words=None):
    """An untrained net that sees a picture, and heeds it."""
    torch.manual_seed(factor)
    more = {} if words is None else {"attention": (1,), "head_width": 16, **words}
    config = {"in_channels": 7, "channels": 16, "mult": (1, 2), "blocks": 1, "attention": (), "groups": 8}
    net = UNet(UNetConfig(**(config | more)))
    for part in net.parameters():
        if not part.any():
            torch.nn.init.normal_(part, std=0.1)
    name = f"small(factor={factor})" if factor > 1 else "grey()"
    model = Denoiser(net, schedules.edm(), rules.edm(0.5), sigma_data=0.5).eval().requires_grad_(False)
    about = {"name": f"by-{factor}"}
    shows = {"damaged": Damaged([name], factor, level)}
    return System(denoiser=model, codec=Pixels(3), encoders=shows, defaults=Sampling(steps=3, size=(16, 16)), about=about)


@pytest.mark.parametrize("name", ["grey()", "jpeg()", "hole()", "uncrop()", "small(factor=4, noise=0.5)"])
def test_damages(name):
    damage = rebuild(parse(name), DAMAGES, "damage")
    made, plane = damage(X, np.random.default_rng(0))
    assert made.shape == X.shape and plane.shape == (6, 1, 16, 16) and (made - X).abs().mean() > 1e-3
    again = damage(X, np.random.default_rng(0))
    assert (torch.equal(again[0], made) and not torch.equal(damage(X, np.random.default_rng(1))[0], made)) or name == "grey()"
    if name in ("hole()", "uncrop()"):
        kept = (plane == 0).expand_as(X)
        assert torch.equal(made[kept], X[kept]) and not made[~kept].any()
        assert 0.02 < float(plane.mean()) < 0.95
    elif name.startswith("small"):
        assert 0 < float(plane.max()) <= 0.5 and len(plane.flatten(1).unique()) == 6
        clean = rebuild(parse("small(factor=4, noise=0)"), DAMAGES, "damage")(X, np.random.default_rng(0))[0]
        noise = (made - clean) / plane
        assert abs(float(noise.std()) - 1) < 0.1, "the plane says how much noise there is"
    else:
        assert not plane.any()


def test_one_of_several_is_drawn_for_each_picture():
    made, plane = drawn(["grey()", "hole()"])(X, np.random.default_rng(3))
    grey = (made[:, :1] == made).all(1).flatten(1).all(1)
    assert 0 < int(grey.sum()) < 6 and bool((plane.flatten(1).any(1) == ~grey).all())


@pytest.mark.parametrize("name", ["jpeg(least=50, most=5)", "hole(least=0)", "small(factor=1)", "small(noise=-1)", "blurr()"])
def test_impossible_damages_are_named(name):
    with pytest.raises(UserError):
        rebuild(parse(name), DAMAGES, "damage")


def photo(size=(16, 16), seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def test_what_is_mended_depends_on_the_picture_and_keeps_what_is_known():
    system, hole = seeing(1), Image.new("L", (16, 16), 0)
    hole.paste(255, (4, 4, 12, 12))
    one, two = (generate(system, tasks=[Mend(photo(seed=k))], seed=1)[0] for k in (0, 1))
    assert abs(pixels([one]) - pixels([two])).max() > 10
    made = pixels(generate(system, tasks=[Mend(photo(), hole)], seed=1, count=2))
    kept = np.asarray(hole) == 0
    assert (made[:, kept] == np.asarray(photo())[kept]).all() and abs(made[0] - made[1]).max() > 1
    for changed in (hole, None):  # what is under the hole is not seen
        other = np.array(photo())
        other[~kept] = 0
        same = (pixels(generate(system, tasks=[Mend(Image.fromarray(other), changed)], seed=1)) == made[:1])[:, ~kept].all()
        assert same == (changed is not None)


def test_restoring_without_an_operator_asks_a_model_that_mends():
    system = seeing(1)
    made, same = (restore(system, photo(), seed=1), generate(system, tasks=[Mend(photo())], seed=1))
    assert (pixels(made) == pixels(same)).all()
    with pytest.raises(UserError, match="makes none from words alone"):
        restore(system, photo(), operator="blur(sigma=1)", steps=1)


def test_each_small_picture_of_a_batch_is_enlarged_for_itself():
    system, images = seeing(2, 0.1), tuple(photo((8, 8), seed=k) for k in range(3))
    together = pixels(generate(system, ["", "", ""], tasks=[Enlarge(images)], seed=4, batch=2, strict=True))
    for k, image in enumerate(images):
        alone = pixels(generate(system, tasks=[Enlarge((image,))], seed=4 + k, strict=True))
        assert (alone[0] == together[k]).all()
    clean = pixels(generate(system, tasks=[Enlarge(images[:1], 0.0)], seed=4, strict=True))
    assert abs(clean - together[:1]).max() > 1, "noise on what is seen changes it"
    assert (pixels(upscale(system, images[0], seed=4, strict=True)) == together[:1]).all()
    assert pixels(upscale(system, photo((10, 8)), seed=4))[0].shape == (16, 20, 3)


def test_a_cascade_is_its_stages_one_after_the_other():
    systems = [BASE, seeing(2), seeing(4)]
    settings = settle(BASE, ["a man", "red hair"], {"seed": 5, "steps": 3, "strict": True})
    events = list(cascade(systems, settings))
    (made,) = (event for event in events if isinstance(event, list))
    assert [type(picture) for picture in made] == [Picture] * 2 and made[0].image.size == (128, 128)
    assert [p.settings.prompt for p in made] == [("a man",), ("red hair",)] and [p.seed for p in made] == [5, 6]
    small = generate(BASE, "red hair", seed=6, steps=3, strict=True)[0]
    middle = generate(systems[1], tasks=[Enlarge((small,))], seed=6, strict=True, height=32, width=32)[0]
    last = generate(systems[2], tasks=[Enlarge((middle,))], seed=6, strict=True, height=128, width=128)[0]
    assert (pixels([made[1].image]) == pixels([last])).all()
    assert made[0].nfe == 3 + 3 + 3


@pytest.mark.parametrize(("styles", "said"), [([], ""), (["micah"], "micah")])
def test_every_stage_hears_what_is_asked_of_the_first(styles, said):
    """A second stage that hears words is told the negative prompt, the style it has, and whether brackets are words."""
    larger, asked = seeing(2, words={"context_dim": 16, "vector_dim": 16}), {"negative": "red", "plain": True, "strict": True}
    larger = replace(larger, encoders={**larger.encoders, **BASE.encoders}, about={"name": "hears", "styles": styles})
    larger = replace(larger, defaults=replace(larger.defaults, guidance=3.0))
    events = list(cascade([BASE, larger], settle(BASE, "a (man)", asked | {"style": "micah", "seed": 5, "steps": 2})))
    small = generate(BASE, "a (man)", style="micah", seed=5, steps=2, **asked)[0]
    last = generate(larger, "a (man)", tasks=[Enlarge((small,))], style=said, seed=5, height=32, width=32, **asked)
    assert (pixels([events[-1][0].image]) == pixels(last)).all()


def test_a_picture_of_a_cascade_says_what_enlarged_it(tmp_path):
    two, four = (replace(seeing(n), about={"name": f"by-{n}", "given": f"runs/by-{n}", "hash": f"{n}" * 64}) for n in (2, 4))
    events = list(cascade([BASE, two, four], settle(BASE, "a man", {"steps": 2}), [Edit(photo(), 0.5)], 0.1))
    metadata.save(events[-1][0], BASE, tmp_path / "made.png", "small")
    made = metadata.read(tmp_path / "made.png")
    assert [task["name"] for task in made.tasks] == ["edit", "enlarge", "enlarge"]
    assert made.tasks[2]["model"] == {"name": "by-4", "given": "runs/by-4", "hash": "4" * 64}
    assert [(task["level"], task["height"], task["width"]) for task in made.tasks[1:]] == [(0.1, 32, 32), (0.1, 128, 128)]
    assert made.settings.size == (16, 16), "the first is drawn at this size again"


def test_what_sees_pictures_is_a_file_like_any_other(tmp_path, capsys):
    system = seeing(2, 0.2)
    save(system, tmp_path / "by2.safetensors")
    again = load(tmp_path / "by2.safetensors")
    assert again.encoders["damaged"].factor == 2 and again.encoders["damaged"].level == 0.2
    save(BASE, tmp_path / "base.safetensors")
    asked = ("a man", "--model", tmp_path / "base.safetensors", "--out", tmp_path / "out", "--then")
    code, out, _ = command(capsys, "generate", *asked, tmp_path / "by2.safetensors")
    assert code == 0
    with Image.open(out.strip()) as image:
        assert image.size == (32, 32)
        first = np.asarray(image)
    code, again, err = command(capsys, "generate", "--from", out.strip(), "--out", tmp_path / "again")
    assert code == 0 and "does not take" not in err
    with Image.open(again.strip()) as image:
        assert (np.asarray(image) == first).all(), "--from takes the models that enlarged it"
    code, out, err = command(capsys, "generate", *asked, tmp_path / "base.safetensors")
    assert code == 2 and "did not learn to enlarge pictures" in err


def test_what_a_net_did_not_learn_is_said():
    for system, task, said in (
        (BASE, Enlarge((photo(),)), "did not learn to enlarge"),
        (BASE, Mend(photo()), "did not learn to mend"),
        (seeing(2), Mend(photo()), "did not learn to mend"),
        (seeing(1), None, "makes none from words alone"),
        (seeing(2), Enlarge((photo(),), 9), "level is 9"),
    ):
        with pytest.raises(UserError, match=said):
            generate(system, tasks=[] if task is None else [task])
    with pytest.raises(UserError, match="learnt to enlarge 2 times"):
        upscale(seeing(2), photo((8, 8)), factor=3)
    for said, ask in {
        "by-1 mends pictures by itself, and hears no noise": lambda: restore(seeing(1), photo(), noise=0.1),
        "by-1 mends pictures by itself, and hears no method": lambda: restore(seeing(1), photo(), method="nonsense"),
        "by-2 learnt to enlarge, and hears no strength": lambda: upscale(seeing(2), photo((8, 8)), strength=7),
        "the size follows from factor: leave out height": lambda: upscale(seeing(2), photo((8, 8)), height=64),
        "the size follows from the picture and its new edges: leave": lambda: outpaint(BASE, photo(), "a man", left=4, width=32),
    }.items():
        with pytest.raises(UserError, match=said):
            ask()


def enlarging(**how):
    net = UNetConfig(in_channels=7, channels=16, mult=(1, 2), blocks=1, attention=(), groups=8)
    return Recipe(name="by", source="avatars", size=16, net=net, **how)


@pytest.mark.parametrize(("damage", "level"), [("small(factor=2, noise=0)", 0.0), ("small()", 0.05), ("small(noise=0.02)", 0.02)])
def test_a_net_is_shown_no_more_noise_than_it_learnt(damage, level):
    pictures = Pictures("few", np.zeros((20, 3, 16, 16), np.uint8), "CC0-1.0")
    assert enlarging(damages=(damage,)).prepare(pictures)[0].encoders["damaged"].level == level


def test_a_factor_that_does_not_fit_the_size_is_said_before_the_data_is_read():
    with pytest.raises(UserError, match="small pictures of 16 pixels by a factor of 3"):
        enlarging(damages=("small(factor=3)",)).pictures()
    with pytest.raises(UserError, match="unknown name 'smal'"):
        enlarging(damages=("smal(factor=2)",)).pictures()
