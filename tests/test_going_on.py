"""A picture that was stopped goes on from a step on disk, and is the picture that it would have been, to the last bit."""

import numpy as np
import pytest
from PIL import Image

from reverie.errors import UserError
from reverie.solve import load_step, save_step
from reverie.systems.shipped import open_model
from reverie.tasks import Edit, Vary
from reverie.tasks.control import opened, wished
from reverie.tasks.follow import Follow
from reverie.tasks.generate import Preview, run
from reverie.tasks.restore import Restore
from reverie.tasks.settings import settle

SAID = ["a bald man", "a smiling woman with red hair", "a person with an afro"]


@pytest.fixture(scope="module")
def system():
    return open_model("reverie-avatars")


def photo():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def half():
    made = Image.new("L", (64, 64), 0)
    made.paste(255, (0, 0, 32, 64))
    return made


TASKS = {
    "none": lambda system: [],
    "edit": lambda system: [Edit(photo(), 0.5)],
    "inpaint": lambda system: [Edit(photo(), 1.0, half())],
    "repaint": lambda system: [Edit(photo(), 1.0, half(), 2)],
    "vary": lambda system: [Vary(9)],
    "follow": lambda system: [Follow("a man")],
    "restore": lambda system: [Restore(photo(), "blur(sigma=1.5)", 0.02)],
    "control": lambda system: opened([wished(f"control(net='avatars-edges', image='{FILE}', take='edges()')")], system),
}


@pytest.fixture(scope="module", autouse=True)
def picture(tmp_path_factory):
    global FILE
    FILE = tmp_path_factory.mktemp("photo") / "photo.png"
    photo().save(FILE)


def drawn(events):
    """Bytes of all pictures."""
    return [picture.image.tobytes() for event in events if isinstance(event, list) for picture in event]


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("more", [{}, {"solver": "euler-a"}, {"solver": "restart", "guide": ("apg(eta=0, norm=2.5)",)}], ids=str)
def test_a_stopped_picture_goes_on(name, more, system, tmp_path):
    settings = settle(system, SAID, {"steps": 5, "batch": 2, "seed": 7, **more})
    events = list(run(system, settings, TASKS[name](system)))
    whole, steps = drawn(events), [event for event in events if isinstance(event, Preview)]
    for stopped in (steps[1], steps[-1]):  # in the first batch, and at the end of the other
        save_step(stopped.step, tmp_path / "step.safetensors", {"first": stopped.first})
        step, about = load_step(tmp_path / "step.safetensors")
        begin = Preview(about["first"], stopped.total, step, system)
        again = list(run(system, settings, TASKS[name](system), begin))
        assert drawn(again) == whole[begin.first :]
        assert sum(isinstance(event, Preview) for event in again) < len(steps) - 1


def test_momentum_begins_anew(system):
    settings = settle(system, "a bald man", {"steps": 3, "guide": ("apg(momentum=-0.5)",)})
    first = next(iter(run(system, settings)))
    with pytest.raises(UserError, match=r"momentum remembers.*begin the picture anew"):
        run(system, settings, (), first)
