"""Changing pictures: strengths, masks, canvases, inversion, variations; the commands; and everything that can be asked wrongly."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from small import small_system
from test_generate import command, pixels

from reverie.cli.drawing import read, unheeded
from reverie.cli.edit import Edit as EditCommand
from reverie.cli.inpaint import Inpaint
from reverie.cli.upscale import Upscale
from reverie.denoiser import Denoiser, log_snr
from reverie.encode import Hidden, Instructed
from reverie.errors import UserError
from reverie.nets.unet import UNet
from reverie.solve import Exponential
from reverie.systems.toy.recipe import TOY
from reverie.tasks import Edit, Invert, Vary, edit, generate, inpaint, metadata, outpaint, upscale
from reverie.tasks.follow import Follow
from reverie.tasks.generate import run as run_events
from reverie.tasks.instruct import Instruct
from reverie.tasks.settings import settle
from reverie.tasks.source import fitted, picture, size_for
from reverie.tasks.start import begun

SYSTEM = small_system()


def photo(size=(16, 16), seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def box(size=(16, 16), grey=255, at=(4, 4, 11, 11)):
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).rectangle(at, fill=grey)
    return mask


def far(image, other):
    return abs(np.asarray(image).astype(float) - np.asarray(other).astype(float)).mean()


def test_more_strength_changes_more():
    changes = [far(edit(SYSTEM, photo(), "a man", s, seed=3, steps=8)[0], photo()) for s in (0.05, 0.2, 0.5, 0.8)]
    assert changes == sorted(changes) and changes[0] < 0.4 * changes[-1]


def test_a_strength_takes_as_many_steps_as_are_asked_for():
    settings = settle(SYSTEM, "a man", {"steps": 6})
    for strength in (0.1, 0.37, 0.6, 1.0):
        start = begun(SYSTEM, settings, [Edit(photo(), strength)])
        assert len(start.grid) == 7 and start.grid[-1] == 0
    whole = begun(SYSTEM, settle(SYSTEM, "a man", {"steps": 10})).grid
    assert torch.equal(begun(SYSTEM, settings, [Edit(photo(), 0.6)]).grid, whole[-7:])
    listed = begun(SYSTEM, settle(SYSTEM, "a man", {"grid": "knots(1, 0.8, 0.6, 0.4, 0.2)"}), [Edit(photo(), 0.4)]).grid
    assert listed.tolist() == [0.4, 0.2, 0.0], "times that are listed are cut"


def test_strength_1_is_a_new_picture():
    new = generate(SYSTEM, "a man", seed=3)[0]
    assert far(edit(SYSTEM, photo(), "a man", 1.0, seed=3)[0], new) < 0.5


def test_what_is_black_stays_to_the_last_bit_and_the_rest_does_not():
    kept = np.asarray(box()) == 0
    for made in (
        inpaint(SYSTEM, photo(), box(), "a man", seed=1, count=2),
        inpaint(SYSTEM, photo(), box(), "a man", seed=1, resample=1),
        inpaint(SYSTEM, photo(), box(grey=128), "a man", 0.8, seed=1),
    ):
        for image in made:
            assert (np.asarray(image)[kept] == np.asarray(photo())[kept]).all()
            assert far(np.asarray(image)[~kept], np.asarray(photo())[~kept]) > 5


def test_pictures_of_a_count_differ_and_each_is_that_of_its_seed():
    for task in (Edit(photo(), 0.5), Edit(photo(), 1.0, box(), 1), Invert(photo(), "red hair", 0.5), Vary(9, 0.4, hold=False)):
        options = {"steps": 3, "strict": True, "guidance": 1.5, "solver": "ddim"}
        together = pixels(generate(SYSTEM, "a man", tasks=[task], seed=5, count=3, batch=2, **options))
        shifted = Vary(11, 0.4, hold=False) if isinstance(task, Vary) else task
        alone = pixels(generate(SYSTEM, "a man", tasks=[shifted], seed=7, **options))
        assert (together[2] == alone[0]).all()
        assert abs(together[0] - together[1]).max() > 1 or isinstance(task, Invert)


def test_what_was_inverted_comes_back():
    source = generate(SYSTEM, "a man", seed=2, guidance=1, steps=30)[0]
    task = Invert(source, "a man")
    again = generate(SYSTEM, "a man", tasks=[task], guidance=1, steps=30, solver="ddim")[0]
    assert abs(pixels([again]) - pixels([source])).max() <= 1
    other = generate(SYSTEM, "a bald man with red hair", tasks=[task], guidance=1, steps=30, solver="ddim")[0]
    assert far(other, source) > 1


def test_a_variation_lies_between_two_seeds():
    own, other = generate(SYSTEM, "a man", seed=1)[0], generate(SYSTEM, "a man", seed=50)[0]
    near = [generate(SYSTEM, "a man", tasks=[Vary(50, share)], seed=1)[0] for share in (0.0, 0.2, 0.6, 1.0)]
    assert abs(pixels(near[:1]) - pixels([own])).max() <= 1 and abs(pixels(near[3:]) - pixels([other])).max() <= 1
    assert far(near[1], own) < far(near[2], own) and far(near[2], other) < far(near[1], other)
    several = generate(SYSTEM, "a man", tasks=[Vary(50, 0.3)], seed=1, count=2)
    assert 1 < far(*several) < far(own, other), "two variations of one picture"


def test_a_canvas_grows_where_it_is_asked_to():
    source = photo()
    made = outpaint(SYSTEM, source, "a man", left=6, bottom=3, seed=1)[0]
    assert made.size == (22, 20), "22 is a multiple of 2; 19 is not, and one more row is drawn"
    assert (np.asarray(made)[:16, 6:] == np.asarray(source)).all()
    with pytest.raises(UserError, match="no edge is moved"):
        outpaint(SYSTEM, source, "a man")


def test_what_is_enlarged_keeps_its_shape():
    made = upscale(SYSTEM, photo((16, 8)), "a man", 1.5, seed=1)[0]
    assert made.size == (24, 12)
    large = photo((16, 8)).resize((24, 12), Image.Resampling.LANCZOS)
    assert far(made, large) < far(generate(SYSTEM, "a man", seed=1, height=12, width=24)[0], large)


@pytest.mark.parametrize(
    ("size", "asked", "expected"),
    [
        ((16, 16), {}, (16, 16)),
        ((24, 12), {}, (24, 12)),  # another shape that can be drawn
        ((17, 16), {}, (16, 16)),  # no multiple of 2
        ((1600, 800), {}, (22, 12)),  # too large: the model's area, and the shape of the picture
        ((4, 4), {}, (16, 16)),
        ((16, 16), {"width": 32}, (32, 16)),
    ],
)
def test_the_size_a_picture_is_taken_at(size, asked, expected):
    found = size_for(SYSTEM, photo(size), asked)
    assert (found["width"], found["height"]) == expected


def test_pictures_of_every_kind_are_taken(tmp_path):
    rgb = photo((8, 4))
    array = np.asarray(rgb)
    see_through = Image.fromarray(np.dstack([array, np.zeros((4, 8), np.uint8)]))
    assert (np.asarray(picture(see_through)) == 255).all(), "what is transparent lies on white"
    assert (np.asarray(picture(array)) == array).all()
    rgb.save(tmp_path / "a.png")
    assert (np.asarray(picture(tmp_path / "a.png")) == array).all()
    assert fitted(rgb, (4, 8), 1).shape == (1, 1, 4, 8)
    exact = fitted(rgb, (4, 8), 3)
    assert ((exact[0].permute(1, 2, 0) + 1) * 127.5).round().numpy().astype(np.uint8).tolist() == array.tolist()


WRONG = {
    "strength is 1.7": lambda: Edit(photo(), 1.7),
    "strength is 0;": lambda: Edit(photo(), 0),
    "strength is nan": lambda: Edit(photo(), float("nan")),
    "strength is True": lambda: Edit(photo(), True),
    "resample makes what is drawn fit": lambda: Edit(photo(), 0.5, None, 3),
    "resample is -1": lambda: Edit(photo(), 0.5, box(), -1),
    "the mask is 8x8, the picture 16x16": lambda: inpaint(SYSTEM, photo(), box((8, 8)), "a man"),
    "the mask is black everywhere": lambda: inpaint(SYSTEM, photo(), box(grey=0), "a man"),
    "nowhere.png is not there": lambda: edit(SYSTEM, "nowhere.png", "a man"),
    "a picture is a int": lambda: edit(SYSTEM, 5, "a man"),
    "is no picture": lambda: edit(SYSTEM, np.zeros((4, 4, 3)), "a man"),
    "width is 15": lambda: edit(SYSTEM, photo(), "a man", width=15),
    "left is -3": lambda: outpaint(SYSTEM, photo(), "a man", left=-3),
    "factor is 0.5": lambda: upscale(SYSTEM, photo(), "a man", 0.5),
    "the share of the other seed is 2": lambda: Vary(3, 2),
    "draws points": lambda: edit(TOY.prepare(TOY.pictures())[0], photo(), ""),
    "no setting 'strenght'": lambda: edit(SYSTEM, photo(), "a man", strenght=0.5),
}


@pytest.mark.parametrize("said", WRONG)
def test_what_cannot_be_done_is_said(said):
    with pytest.raises(UserError, match=said):
        WRONG[said]()


def test_a_tuned_solver_goes_the_whole_way():
    with pytest.raises(UserError, match="no solver tuned to 4"):
        edit(SYSTEM, photo(), "a man", 0.5, solver="tuned")


@pytest.fixture
def places(tmp_path):
    photo().save(tmp_path / "photo.png")
    box().save(tmp_path / "mask.png")
    box((8, 8)).save(tmp_path / "small.png")
    return tmp_path


def run(capsys, model, *arguments):
    code, out, err = command(capsys, *arguments, "--model", model, "--json")
    assert code == 0, err
    return [json.loads(line)["file"] for line in out.splitlines()], err


def test_the_commands_draw_what_the_functions_draw(capsys, model, places):
    image, mask = places / "photo.png", places / "mask.png"
    common = ("--seed", 3, "--out", places / "out")
    expected = {
        ("edit", image, "a man", "--strength", 0.4): lambda: edit(SYSTEM, image, "a man", 0.4, seed=3),
        ("edit", image, "a man", "--mask", mask): lambda: inpaint(SYSTEM, image, mask, "a man", 0.6, seed=3),
        ("edit", image, "a man", "--invert", "red hair"): lambda: generate(
            SYSTEM, "a man", tasks=[Invert(image, "red hair")], seed=3
        ),
        ("inpaint", image, "a man", "--mask", mask): lambda: inpaint(SYSTEM, image, mask, "a man", seed=3),
        ("outpaint", image, "a man", "--left", 4): lambda: outpaint(SYSTEM, image, "a man", left=4, seed=3),
        ("upscale", image, "a man", "--factor", 1.5): lambda: upscale(SYSTEM, image, "a man", 1.5, seed=3),
        ("generate", "a man", "--vary", 0.3, "--vary-seed", 8): lambda: generate(SYSTEM, "a man", tasks=[Vary(8, 0.3)], seed=3),
        ("generate", "a man", "--follow", "bald", "--stress", "man=3"): lambda: generate(
            SYSTEM, "a man", tasks=[Follow("bald", stress={"man": 3.0})], seed=3
        ),
        ("generate", "a man", "--stress", "man=0"): lambda: generate(SYSTEM, "a man", tasks=[Follow(stress={"man": 0})], seed=3),
        ("edit", image, "a man", "--invert", "red hair", "--follow", "red hair"): lambda: generate(
            SYSTEM, "a man", tasks=[Invert(image, "red hair"), Follow("red hair")], seed=3
        ),
    }
    for asked, make in expected.items():
        files, _ = run(capsys, model, *asked, *common, "--precision", "float32")
        with Image.open(files[0]) as made:
            assert abs(pixels([made]) - pixels(make())).max() <= 1, asked


def test_an_edited_picture_tells_how_it_was_made(capsys, model, places):
    asked = ("edit", places / "photo.png", "a man", "--strength", 0.4, "--steps", 3, "--out", places / "out")
    (first,), _ = run(capsys, model, *asked)
    made = metadata.read(first)
    task = made.tasks[0]
    assert (task["name"], task["strength"], task["image"]["file"]) == ("edit", 0.4, "photo.png")
    with Image.open(first) as image:
        assert "Denoising strength: 0.4" in image.text["parameters"]
    (again,), _ = run(capsys, model, "edit", places / "photo.png", "--from", first, "--out", places / "out")
    with Image.open(first) as one, Image.open(again) as two:
        assert (np.asarray(one) == np.asarray(two)).all(), "--from takes the strength as well"
    _, said = run(capsys, model, "generate", "--from", first, "--out", places / "out")
    assert "was made by edit, which --from does not take" in said


def drawn_from(place, monkeypatch, kind, arguments, *tasks, **settings):
    """What a command asks for with --from a picture that these tasks made, and what it said of it."""
    monkeypatch.chdir(place)
    made = list(run_events(SYSTEM, settle(SYSTEM, "a man", settings), tasks))[-1][0]
    metadata.save(made, SYSTEM, place / "made.png", "small")
    return read(kind, [*map(str, arguments), "--from", "made.png"], "reverie")[0]


def test_from_takes_what_a_picture_was_made_by_whatever_else_was_done(places, monkeypatch, capsys):
    more = Vary(9, 0.2)
    inverted = Invert("photo.png", "red hair", 0.7)
    told = drawn_from(places, monkeypatch, EditCommand, ["photo.png"], more, inverted)
    assert told.task() == inverted, "what it was traced back under"
    assert (told.vary, told.vary_seed, capsys.readouterr().err) == (0.2, 9, ""), "and what every command takes"
    told = drawn_from(places, monkeypatch, EditCommand, ["photo.png", "--strength", 0.5, "--invert", ""], inverted)
    assert told.task() == Invert("photo.png", "", 0.5), "what is given wins"
    part = Edit("photo.png", 0.5, "mask.png", 2)
    told = drawn_from(places, monkeypatch, Inpaint, ["photo.png", "--mask", "mask.png"], more, part)
    assert told.task() == part
    told = drawn_from(places, monkeypatch, Inpaint, ["photo.png", "--mask", "mask.png", "--strength", 1, "--resample", 0], part)
    assert told.task() == Edit("photo.png", 1.0, "mask.png", 0)
    told = drawn_from(places, monkeypatch, EditCommand, ["photo.png", "--mask", "mask.png"], Edit("photo.png", 0.3, "mask.png"))
    assert told.task() == Edit("photo.png", 0.3, "mask.png")
    capsys.readouterr()
    for arguments, task, name in (
        (["photo.png"], part, "edit"),  # a part of it was changed, and no mask is given
        (["photo.png", "--mask", "mask.png"], inverted, "invert"),
        (["photo.png", "--invert", "red hair"], Edit("photo.png", 0.3), "edit"),
    ):
        told = drawn_from(places, monkeypatch, EditCommand, arguments, task)
        assert told.strength is None and f"was made by {name}, which --from does not take" in capsys.readouterr().err
    told = drawn_from(places, monkeypatch, Upscale, ["photo.png"], Edit("photo.png", 0.3))
    told.early()  # the size that is told follows from that picture, and is not asked for


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("edit",), "name the picture: reverie edit IMAGE PROMPT"),
        (("edit", "nowhere.png", "a man"), "nowhere.png is not there"),
        (("edit", "photo.png", "a man", "--strength", 1.7), "strength is 1.7"),
        (("edit", "photo.png", "a man", "--invert", "", "--mask", "mask.png"), "--invert traces back the whole picture"),
        (("inpaint", "photo.png", "a man"), "say where to draw"),
        (("inpaint", "photo.png", "a man", "--mask", "small.png"), "the mask is 8x8, the picture 16x16"),
        (("outpaint", "photo.png", "a man"), "no edge is moved"),
        (("outpaint", "photo.png", "a man", "--left", 4, "--width", 32), "leave out --height and --width"),
        (("upscale", "photo.png", "a man", "--factor", 90), "factor is 90"),
        (("generate", "a man", "--stress", "man"), "'man' is no word with a weight: write it as glasses=3"),
        (("generate", "a man", "--stress", "man=400"), "the stress of 'man' is 400"),
        (("generate", "a man", "--vary", 0.2), "name the other one with --vary-seed"),
    ],
)
def test_a_wrong_command_is_one_line(capsys, model, places, monkeypatch, asked, said):
    monkeypatch.chdir(places)
    code, out, err = command(capsys, *asked, "--model", model, "--out", places / "out")
    assert code == 2 and not out and said in err and len(err.splitlines()) == 1


def test_tasks_are_functions_that_go_one_after_the_other():
    """A variation of an edit, on another solver: nothing of it knows of the others."""
    tasks = [Vary(8, 0.5), Edit(photo(), 0.5, box())]
    settings = settle(SYSTEM, "a man", {"steps": 3})
    start = begun(SYSTEM, settings, tasks)
    assert not torch.equal(start.noise, begun(SYSTEM, settings).noise)
    assert isinstance(start.solver, Exponential)
    assert (np.asarray(generate(SYSTEM, "a man", tasks=tasks, steps=3)[0])[:4] == np.asarray(photo())[:4]).all()


def test_variations_and_what_is_followed_are_drawn_again_from_a_picture(capsys, model, places):
    asked = ("generate", "a man", "--steps", 2, "--seed", 4, "--out", places / "out")
    for more in (("--vary", 0.4, "--vary-seed", 8, "--count", 2), ("--follow", "bald", "--stress", "man=2.5")):
        files, _ = run(capsys, model, *asked, *more)
        (again,), said = run(capsys, model, "generate", "--from", files[-1], "--out", places / "out")
        assert "does not take" not in said
        with Image.open(files[-1]) as one, Image.open(again) as two:
            assert (np.asarray(one) == np.asarray(two)).all(), more


def seeing(channels, **encoders):
    """The small system with a net that sees more than the picture it draws."""
    torch.manual_seed(0)
    made = replace(SYSTEM.denoiser.net.config, in_channels=3 + channels, out_channels=3)
    net = UNet(made)
    for part in net.parameters():
        if not part.any():
            torch.nn.init.normal_(part, std=0.1)
    old = SYSTEM.denoiser
    model = Denoiser(net, old.path, old.rule, log_snr(), sigma_data=0.5).eval().requires_grad_(False)
    return replace(SYSTEM, denoiser=model, encoders={**SYSTEM.encoders, **encoders})


def test_keeping_is_heard_at_guidance_1():
    """Equation (1) of tasks/instruct.py at w_T = 1 is what a scale next to 1 gives."""
    system = seeing(3, instruct=Instructed())
    near, at, none = (
        pixels(generate(system, "a man", tasks=[Instruct(photo(), keep)], guidance=w, negative="red", seed=1))
        for keep, w in ((3.0, 1.0001), (3.0, 1.0), (1.0, 1.0))
    )
    assert abs(near - at).max() <= 1 < abs(at - none).max()
    assert not unheeded(system, "red", 1.0) and unheeded(SYSTEM, "red", 1.0)


def test_a_model_that_follows_instructions_is_asked_to(places, monkeypatch):
    monkeypatch.chdir(places)
    system = seeing(3, instruct=Instructed())
    made = pixels(edit(system, photo(), "a man", keep=2.0, seed=1))
    assert (made == pixels(generate(system, "a man", tasks=[Instruct(photo(), 2.0)], seed=1))).all()
    command = EditCommand(image="photo.png", prompt=("a man",))
    assert command.tasks(system)[0] == [Instruct("photo.png", 1.5)] and command.tasks(SYSTEM)[0] == [Edit("photo.png", 0.6)]
    for more, unheard in (({"strength": 0.5}, "strength"), ({"mask": "mask.png"}, "mask"), ({"invert": "a man"}, "invert")):
        with pytest.raises(UserError, match=f"follows an instruction, and hears no {unheard}: leave it out"):
            replace(command, **more).tasks(system)
    with pytest.raises(UserError, match="hears no strength"):
        edit(system, photo(), "a man", 0.5)
    with pytest.raises(UserError, match="follows no instructions, so that keep has no effect"):
        replace(command, keep=2.0).tasks(SYSTEM)


def test_a_net_that_fills_holes_draws_all_of_a_picture_anew_and_sees_grey_as_a_hole():
    system = seeing(4, inpaint=Hidden())
    near, far_off = (edit(system, photo(), "a man", s, seed=1)[0] for s in (0.05, 1.0))
    assert far(near, photo()) < 0.5 * far(far_off, photo())
    told = [begun(system, settle(system, "a man", {}), [Edit(photo(), 0.6, box(grey=grey))]).cond.concat for grey in (50, 255)]
    assert torch.equal(*told) and told[0][:, :1].any()
