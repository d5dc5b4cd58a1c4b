"""Every task with every other, in either order: a picture comes, both show in it, and what is asked first makes no difference."""

import itertools
from dataclasses import replace

import pytest
import torch
from PIL import Image
from small import small_system
from test_control_images import Colours, awake
from test_editing import box, photo
from test_generate import pixels

from reverie.adapt import Control, ImagePrompt
from reverie.adapt.image_prompt import sites
from reverie.errors import UserError
from reverie.nets.control import control_of
from reverie.nets.image_prompt import ImagePromptConfig, ImagePromptNet
from reverie.tasks import Edit, Invert, Vary, generate
from reverie.tasks.control import Show, Steer
from reverie.tasks.follow import Follow
from reverie.tasks.generate import run
from reverie.tasks.regions import Region, Regions
from reverie.tasks.restore import Restore
from reverie.tasks.settings import settle
from reverie.tasks.start import REST, begun

SYSTEM = small_system()


def prompt():
    cond = SYSTEM.prompt_encoder.prompts(["a man", "bald"])
    widths = sites(SYSTEM.denoiser, torch.randn(2, 3, 16, 16), cond)[1]
    torch.manual_seed(0)
    net = ImagePromptNet(ImagePromptConfig(embed=3, tokens=2, width=16, sites=widths))
    return ImagePrompt(net=awake(net), eye=Colours())


CONTROL, PROMPT = Control(net=awake(control_of(SYSTEM.denoiser.net))), prompt()
TASKS = {
    "invert": Invert(photo(), "a man", 0.5),
    "vary": Vary(9, 0.5),
    "steer": Steer((CONTROL,), (photo(),)),
    "show": Show((PROMPT,), (photo(seed=3),)),
    "regions": Regions((Region(box(), "red hair"),)),
    "attention": Regions((Region(box(), "red hair"),), "attention"),
    "follow": Follow("a man with red hair", cross=1.0, own=1.0),
    "edit": Edit(photo(seed=1), 0.8, box()),
    "restore": Restore(photo(seed=2), "grey()", 0.1),
}
APART = {
    frozenset(("follow", "regions")): "one prompt, for all of it",
    frozenset(("follow", "attention")): "one prompt, for all of it",
    frozenset(("regions", "attention")): "cannot change on the way or hold AND",
}
"""What does not go together, and is refused."""


def drawn(*names, system=SYSTEM, **settings):
    tasks = [TASKS[name] for name in names]
    return pixels(generate(system, "a bald man", tasks=tasks, **{"seed": 3, "steps": 4, "count": 2} | settings))


@pytest.fixture(scope="module")
def alone():
    return {name: drawn(name) for name in TASKS}


@pytest.mark.parametrize(("one", "two"), [*itertools.combinations(TASKS, 2)])
def test_two_tasks(one, two, alone):
    if said := APART.get(frozenset((one, two))):
        with pytest.raises(UserError, match=said):
            drawn(one, two)
        return
    made = drawn(one, two)
    if {getattr(TASKS[name], "turn", REST) for name in (one, two)} != {REST}:
        assert (made == drawn(two, one)).all(), "in whatever order they are asked for"
    assert (made != alone[two]).any(), f"{one} shows"
    if {one, two} != {"invert", "edit"}:  # which begins at another picture
        assert (made != alone[one]).any(), f"{two} shows"


@pytest.mark.parametrize("name", ["steer", "show"])
def test_the_same_task_twice_is_both(name, alone):
    again = drawn(name, name)
    assert (again != alone[name]).any() and (again == drawn(name, "vary", name)).all() == (again == drawn("vary", name)).all()


def test_steering_before_and_after_showing():
    assert (drawn("steer", "show", "steer") == drawn("show", "steer", "steer")).all()


def test_both_of_a_pair_begin_with_the_same_noise():
    start = begun(SYSTEM, settle(SYSTEM, "a man", {"count": 2}), [Follow("a bald man"), Vary(9, 0.5)])
    assert torch.equal(*start.noise.chunk(2))


def test_the_way_that_is_followed_is_the_one_that_is_gone():
    """Of an edit, which goes the end of the way alone, the whole is taken: attention follows from its first step."""
    assert (drawn("follow", "edit") != drawn("edit")).any()
    one, two = (
        pixels(generate(SYSTEM, "a bald man", tasks=[Follow("a man", cross=0.0, own=own), Edit(photo(), 0.5)], steps=4, seed=1))
        for own in (0.0, 0.4)
    )
    assert (one != two).any()


def test_styles_belong_to_every_prompt():
    settings = settle(SYSTEM, "a man", {"style": "micah"})
    assert begun(SYSTEM, settings, [Follow("a bald man")]).said == ("a bald man, micah style", "a man, micah style")


def test_a_variation_is_drawn_again_from_what_it_says_of_itself():
    events = run(SYSTEM, settle(SYSTEM, "a man", {"seed": 7, "count": 3, "solver": "euler-a"}), [Vary(5, 0.3)])
    third = list(events)[-1][2]
    assert (third.seed, third.tasks[0]["seed"]) == (7, 7)
    again = generate(SYSTEM, "a man", tasks=[Vary(third.tasks[0]["seed"], 0.3)], seed=third.seed, solver="euler-a")
    assert (pixels(again) == pixels([third.image])).all()


def test_perturbed_attention_beside_a_picture_that_follows():
    assert (drawn("follow", guide=("pag()",)) != drawn("follow")).any()


def test_a_picture_is_traced_back_under_one_prompt():
    with pytest.raises(UserError, match="traced back under one prompt"):
        generate(SYSTEM, "a man", tasks=[Invert(photo(), "a [bald:red:0.5] man")], steps=2)


@pytest.mark.parametrize("words", ["a bald man", "a [red:bald:0.5] man"])
def test_a_refiner_goes_the_same_way(words):
    """As its own refiner a model draws of an edit what it draws alone."""
    options = {"tasks": [Edit(photo(), 0.5)], "steps": 4, "seed": 1}
    one, two = (
        pixels(generate(s, words, **options, **more))
        for s, more in ((replace(SYSTEM, refiner=SYSTEM), {"handover": 0.1}), (SYSTEM, {}))
    )
    assert abs(one - two).max() <= 1


def test_a_refiner_draws_both_of_a_pair():
    assert drawn("follow", system=replace(SYSTEM, refiner=SYSTEM)).shape == drawn("follow").shape


@pytest.mark.parametrize(
    "task", [Follow("a man with a blorb"), Invert(photo(), "a blorb", 0.5), Regions((Region(box(), "a blorb"),))]
)
def test_words_of_tasks_that_are_not_known_are_named(task):
    with pytest.warns(UserWarning, match="blorb"):
        generate(SYSTEM, "a man", tasks=[task], steps=4)
    with pytest.warns(UserWarning, match="black everywhere"):
        generate(SYSTEM, "a man", tasks=[Steer((CONTROL,), (Image.new("RGB", (16, 16)),))], steps=1)
