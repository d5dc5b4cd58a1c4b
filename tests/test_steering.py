"""Controls and image prompts as tasks: on any task, from Python and from the command line."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from small import small_system
from test_generate import command, pixels

import reverie
from reverie.adapt import Control, Controlled
from reverie.data.avatars import avatars
from reverie.data.hints import edges
from reverie.errors import UserError
from reverie.nets.control import control_of
from reverie.systems import save
from reverie.systems.control import open_control, save_control
from reverie.tasks import Edit, generate
from reverie.tasks.control import Steer, wished
from reverie.tasks.settings import settle
from reverie.tasks.start import begun

SYSTEM = small_system()


def photo(size=(16, 16), seed=0):
    image = np.full((size[1], size[0], 3), 255, np.uint8)
    image[2 + seed : 9, 3 : 10 + seed] = (200, 30, 30 * seed)
    return Image.fromarray(image)


def net(awake=True, seed=0):
    torch.manual_seed(seed)
    made = control_of(SYSTEM.denoiser.net)
    if awake:
        for part in made.parameters():
            if not part.any():
                torch.nn.init.normal_(part, std=0.1)
    return made.eval().requires_grad_(False)


def drawn(*tasks, **settings):
    return pixels(generate(SYSTEM, "a man", tasks=tasks, **{"seed": 3, "steps": 3, "count": 2} | settings))


def steer(control, *images, take=""):
    return Steer((control,), images or (photo(),), (take,))


def test_a_control_that_has_learnt_nothing_changes_no_bit():
    for strict in (False, True):
        plain = drawn(strict=strict)
        assert (drawn(steer(Control(net=net(False))), strict=strict) == plain).all()
        assert (drawn(steer(Control(net=net(), weight=0.0)), strict=strict) == plain).all()
        assert abs(drawn(steer(Control(net=net())), strict=strict) - plain).max() > 5


def test_the_picture_counts_and_is_fitted_to_the_size():
    control = Control(net=net())
    one, two = drawn(steer(control)), drawn(steer(control, photo(seed=4)))
    assert abs(one - two).max() > 5
    assert (drawn(steer(control, photo().resize((64, 64), Image.Resampling.NEAREST))) != one).mean() < 1
    wide = photo((32, 16))
    middle = wide.crop((8, 0, 24, 16))
    assert (drawn(steer(control, wide)) == drawn(steer(control, middle))).all()


def test_a_hint_is_drawn_from_a_photograph():
    control = Control(net=net())
    hint = Image.fromarray(edges()(np.asarray(photo())))
    assert (drawn(steer(control, take="edges()")) == drawn(steer(control, hint))).all()
    assert (drawn(steer(control, take=edges())) == drawn(steer(control, hint))).all()


def test_several_controls_are_added_up_and_one_task_is_as_good_as_two():
    one, two = Control(net=net(), weight=0.6), Control(net=net(seed=1), stop=0.5)
    together = drawn(Steer((one, two), (photo(), photo(seed=3))))
    assert (drawn(steer(one), steer(two, photo(seed=3))) == together).all()
    for alone in (drawn(steer(one)), drawn(steer(two, photo(seed=3)))):
        assert abs(alone - together).max() > 2
    sizes = drawn(Steer((one, one), (photo(), photo((48, 48)))))
    assert sizes.shape == together.shape, "pictures of several sizes are all fitted"


def test_guidance_speaks_for_a_control_that_its_negative_half_does_not_hear():
    asked, plain = Control(net=net(), guided=True), Control(net=net(seed=1))
    task = Steer((asked, plain), (photo(), photo(seed=3)))
    begin = begun(SYSTEM, settle(SYSTEM, ["a man"], {"steps": 3, "guidance": 2.0}), [task])
    x, t = begin.x, begin.grid[:1]
    others = Controlled(SYSTEM.denoiser, [plain])
    unasked = others(x, t, replace(begin.negative, hints=begin.negative.hints[1:], heeded=None))
    whole = Controlled(SYSTEM.denoiser, [asked, plain])(x, t, replace(begin.cond, heeded=None))
    torch.testing.assert_close(begin.model(x, t, begin.told), unasked + 2 * (whole - unasked), atol=1e-5, rtol=1e-4)
    alone = drawn(steer(asked), guidance=3.0)
    assert (alone != drawn(steer(Control(net=net())), guidance=3.0)).any()
    with pytest.warns(UserWarning, match="guidance is 1, so that control, which is guided, is as it is without"):
        lone = drawn(steer(asked), guidance=1.0)
    assert (lone == drawn(steer(Control(net=net())), guidance=1.0)).all()


def test_controls_go_with_every_other_task():
    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (0, 0, 8, 16))
    edit = Edit(photo(seed=2), 0.7, mask)
    made, plain = drawn(steer(Control(net=net())), edit), drawn(edit)
    kept = np.asarray(mask) == 0
    assert (made[:, kept] == plain[:, kept]).all() and abs(made - plain).max() > 2
    assert (drawn(edit, steer(Control(net=net()))) == made).all(), "in any order"


def test_the_command(capsys, tmp_path):
    save(SYSTEM, tmp_path / "base.safetensors")
    save_control(net(), tmp_path / "edges.safetensors", SYSTEM)
    photo().save(tmp_path / "photo.png")
    Image.new("RGB", (16, 16)).save(tmp_path / "black.png")

    def asked(image, more=""):
        text = f"control(net='{tmp_path}/edges.safetensors', image='{tmp_path}/{image}'{more})"
        options = ("--model", tmp_path / "base.safetensors", "--out", tmp_path / "out", "--precision", "float32")
        return command(capsys, "generate", "a man", "--seed", 3, "--steps", 3, *options, "--control", text)

    code, out, err = asked("photo.png", ", weight=0.5, take='edges()'")
    assert code == 0, err
    with Image.open(out.strip()) as image:
        expected = drawn(steer(Control(net=net(), weight=0.5), take="edges()"), count=1)
        assert abs(pixels([image]) - expected).max() <= 1
        assert '"weight": 0.5' in image.text["reverie"] and "photo.png" in image.text["reverie"]
    _, _, err = asked("black.png")
    assert "is black everywhere: it says that there is nothing" in err
    for wrong, said in (
        (asked("nowhere.png"), "nowhere.png is not there"),
        (asked("photo.png", ", weigth=1"), "weigth"),
        (asked("photo.png", ", take='egdes()'"), "egdes"),
        (asked("photo.png", ", start=0.9, stop=0.2"), "start <= stop"),
    ):
        assert wrong[0] == 2 and said in wrong[2] and len(wrong[2].splitlines()) == 1


def test_the_control_that_is_shipped_is_heeded():
    system = reverie.load("reverie-avatars")
    held = avatars().split(256)[1]
    steer = open_control("avatars-edges", system)
    apart = {"with": [], "without": []}
    for k in (1, 2):
        image = Image.fromarray(np.ascontiguousarray(held.images[k].transpose(1, 2, 0)))
        given = edges()(np.asarray(image))[..., 0] > 127
        for name, tasks in (("with", [Steer((steer,), (image,), ("edges()",))]), ("without", [])):
            drawn = edges()(np.asarray(system.generate("", tasks=tasks, steps=8, seed=k)[0]))[..., 0] > 127
            apart[name].append(1 - 2 * (given & dilated(drawn)).sum() / (given.sum() + drawn.sum()))
    assert np.mean(apart["with"]) < 0.5 * np.mean(apart["without"]), apart


def dilated(lines):
    """Within a pixel."""
    wide = np.pad(lines, 1)
    return np.any([wide[i : i + lines.shape[0], j : j + lines.shape[1]] for i in range(3) for j in range(3)], 0)


def test_what_does_not_fit_is_said():
    with pytest.raises(UserError, match="1 controls have 2 pictures"):
        Steer((Control(net=net()),), (photo(), photo()))
    with pytest.raises(UserError, match="unknown name 'controll'"):
        wished("controll(net='a', image='b')")
