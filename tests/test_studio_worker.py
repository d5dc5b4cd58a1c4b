"""The studio's worker: what is asked is drawn, stopped within a step, and goes on after kill -9 as if nothing had been."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reverie.errors import UserError
from reverie.studio import draw as module
from reverie.studio.asked import read
from reverie.studio.library import Library
from reverie.studio.queue import CANCELLED, DONE, FAILED, INTERRUPTED, Queue
from reverie.studio.worker import Worker
from reverie.tasks import generate
from reverie.tasks.metadata import read as told

ASKED = {"prompt": "a bald man", "settings": {"steps": 4, "seed": 7, "count": 2}}


def png(image=None):
    out = io.BytesIO()
    levels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (image or Image.fromarray(levels)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def library(tmp_path):
    return Library(tmp_path)


@pytest.fixture
def worker(library):
    made = Worker(library, "w", tell=lambda event: events.append(event))
    events.clear()
    yield made
    made.queue.close()


events = []


def test_pictures_are_those_of_generate_and_say_how_they_were_made(worker, library):
    job = worker.queue.submit("draw", ASKED)
    done = worker.one()
    assert (done.id, done.state, done.error) == (job.id, DONE, None)
    files = [library.picture(name) for name in done.result["pictures"]]
    system = worker.system("reverie-avatars", ())
    direct = generate(system, "a bald man", steps=4, seed=7, count=2)
    assert [Image.open(file).tobytes() for file in files] == [image.tobytes() for image in direct]
    assert [told(file).settings.seed for file in files] == [7, 8]
    steps = [event["step"] for event in events if "step" in event]
    assert steps == [1, 2, 3, 4] and events[-1] == {"job": job.id, "state": DONE}
    assert not (library.folder / "work" / job.id).exists()
    assert worker.one() is None


@pytest.mark.parametrize(
    "task",
    [
        {"name": "edit", "strength": 0.5},
        {"name": "inpaint", "mask": True},
        {"name": "outpaint", "left": 32},
        {"name": "upscale", "factor": 2.0},
        {"name": "restore", "operator": "grey()"},
        {"name": "control", "net": "avatars-edges", "take": "edges()"},
    ],
    ids=lambda task: task["name"],
)
def test_every_task(task, worker, library):
    hole = Image.new("L", (64, 64), 0)
    hole.paste(255, (0, 0, 32, 64))
    task = {**task, "image": library.keep(png())} | ({"mask": library.keep(png(hole))} if "mask" in task else {})
    worker.queue.submit("draw", {"prompt": "a bald man", "settings": {"steps": 3}, "tasks": [task]})
    done = worker.one()
    assert (done.state, done.error) == (DONE, None)
    made = told(library.picture(done.result["pictures"][0]))
    assert made.settings.steps == 3 and made.tasks


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"promt": "a"}, "no field 'promt'. Did you mean 'prompt'"),
        ({"settings": {"step": 3}}, "no setting 'step'. Did you mean 'steps'"),
        ({"settings": []}, "settings is a JSON object"),
        ({"settings": {"steps": "4"}}, "steps is '4'"),
        ({"model": "/etc/passwd"}, "there is no model '/etc/passwd'"),
        ({"model": "../models"}, "there is no model '../models'"),
        ({"model": 7}, "there is no model '7'"),
        ({"loras": ["../../a:0.8"]}, "there is no lora '../../a'"),
        ({"tasks": [{"name": "edti", "image": "a"}]}, "edit"),
        ({"tasks": [{"name": "edit", "image": "../../etc/passwd"}]}, "there is no picture"),
        ({"tasks": [{"name": "edit", "image": "0" * 64}]}, "there is no picture"),
        ({"tasks": [{"name": "edit", "image": 3}]}, "image"),
        ({"tasks": [{"name": "edit"}]}, "image"),
        ({"tasks": [{"name": "vary", "seed": 1, "sede": 2}]}, "seed"),
        ({"tasks": ["edit"]}, ""),
        ({"tasks": [{}] * 17}, "at most 16 tasks"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(asked, said, library):
    with pytest.raises(UserError) as error:
        read(asked, library)
    assert said in str(error.value)


def test_a_job_that_cannot_be_drawn_fails_and_the_next_one_is_drawn(worker, library):
    (library.folder / "models" / "broken.safetensors").write_bytes(b"nothing")
    worker.queue.submit("draw", {"model": "broken"})
    worker.queue.submit("draw", {"prompt": "a", "settings": {"steps": 1}})
    first, second = worker.one(), worker.one()
    assert first.state == FAILED and "not a whole safetensors file" in first.error
    assert second.state == DONE


def test_cancelled_within_a_step(worker, library):
    job = worker.queue.submit("draw", {"prompt": "a", "settings": {"steps": 50}})
    other = Queue(library.folder)

    def tell(event):
        events.append(event)
        if event.get("step") == 3:
            other.cancel(job.id)

    worker.tell = tell
    assert worker.one().state == CANCELLED
    assert max(event.get("step", 0) for event in events) == 3
    assert not list((library.folder / "pictures").iterdir())
    other.close()


def test_a_picture_that_was_interrupted_goes_on(library, monkeypatch):
    """At each of its steps in turn: the same bits, and no step twice."""
    monkeypatch.setattr(module, "KEPT_EVERY", 0.0)
    asked = {"prompt": ["a bald man", "a smiling woman"], "settings": {"steps": 4, "seed": 7, "batch": 1}}
    first = Worker(library, "first")
    whole = [library.picture(name).read_bytes() for name in (first.queue.submit("draw", asked), first.one())[1].result["pictures"]]
    first.queue.close()
    for stop in range(1, 9):
        seen = []

        def tell(event, stop=stop, seen=seen):
            seen.append(event)
            if sum("step" in one for one in seen) == stop + 1:
                raise KeyboardInterrupt  # after so many steps were kept

        dying = Worker(library, "dying", tell)
        job = dying.queue.submit("draw", asked)
        if stop < 8:
            with pytest.raises(KeyboardInterrupt):
                dying.one()
        else:
            dying.one()
        dying.queue.close()
        later = Worker(library, "later", lambda event, seen=seen: seen.append(event))
        if stop < 8:
            assert [one.state for one in later.queue.recover()] == [INTERRUPTED]
            later.queue.resume(job.id)
            later.one()
        done = later.queue.get(job.id)
        later.queue.close()
        assert [library.picture(name).read_bytes() for name in done.result["pictures"]] == whole
        assert sum("step" in one for one in seen) == (9 if stop < 8 else 8), "one step is gone again"


def test_the_process_draws_what_it_is_told_of_and_ends_with_its_input(library):
    queue = Queue(library.folder)
    process = subprocess.Popen(
        [sys.executable, "-m", "reverie.studio.worker", str(library.folder), "w"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert json.loads(process.stdout.readline()) == {"worker": "w"}
        job = queue.submit("draw", {"prompt": "a", "settings": {"steps": 2}})
        process.stdin.write("\n")
        process.stdin.flush()
        said = []
        while not said or said[-1].get("state") != DONE:
            said.append(json.loads(process.stdout.readline()))
        assert queue.get(job.id).state == DONE
        process.stdin.close()
        assert process.wait() == 0
    queue.close()


def test_pictures_that_are_sent_are_written_anew(library):
    name = library.keep(png())
    assert library.keep(png()) == name and library.picture(name).parent == library.folder / "uploads"
    info = Image.new("RGB", (4, 4))
    out = io.BytesIO()
    info.save(out, "JPEG", exif=b"Exif\x00\x00MM\x00*" + b"\x00" * 40, comment=b"secret")
    kept = library.picture(library.keep(out.getvalue())).read_bytes()
    assert kept.startswith(b"\x89PNG") and b"secret" not in kept
    for data, said in ((b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot be decoded"), (b"", "cannot be decoded")):
        with pytest.raises(UserError, match=said) as error:
            library.keep(data)
        assert str(library.folder) not in str(error.value)
    assert {path.suffix for path in Path(library.folder / "uploads").iterdir()} == {".png"}
