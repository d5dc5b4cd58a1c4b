"""The studio learns from an album: what it will take is said first; it stops, goes on, and what it made is there to draw with."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from reverie.errors import UserError
from reverie.files import load_tensors
from reverie.studio.kinds import kind
from reverie.studio.library import Library
from reverie.studio.queue import CANCELLED, DONE, INTERRUPTED, Queue
from reverie.studio.worker import Worker


def png(k):
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(k).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def library(tmp_path):
    made = Library(tmp_path)
    made.collect("cats", [(made.keep(png(k)), f"cat {k}") for k in range(3)])
    return made


@pytest.fixture
def worker(library):
    made = Worker(library, "w", tell=lambda event: events.append(event))
    events.clear()
    yield made
    made.queue.close()


events = []


def steps_of(job):
    return list(dict.fromkeys(event["step"] for event in events if event.get("job") == job.id and "step" in event))


ASKED = {"album": "cats", "updates": 4, "batch": 2, "rank": 2, "caption": "{}, in the style of sks"}


def test_an_album_keeps_its_captions(library):
    assert library.albums() == {"cats": 3}
    assert sorted(path.read_text() for path in library.album("cats").glob("*.txt")) == ["cat 0", "cat 1", "cat 2"]
    for wrong in ("../cats", "", "a/b", "a" * 65, ".."):
        with pytest.raises(UserError, match="cannot be called"):
            library.collect(wrong, [])
    with pytest.raises(UserError, match=r"no album 'cast'\. Did you mean 'cats'"):
        library.album("cast")


@pytest.mark.parametrize("way", ["lora", "dreambooth", "small"])
def test_what_is_learnt_can_be_drawn_with(way, worker, library):
    asked = {"album": "cats", "updates": 2, "batch": 2, "way": way} | ({} if way == "small" else {"model": "reverie-avatars"})
    estimate = worker.queue.submit("estimate", asked)
    said = worker.one()
    assert (said.id, said.state, said.error) == (estimate.id, DONE, None)
    assert said.result["steps"] == 2 and said.result["seconds"] > 0 and "a step takes" in said.result["said"]
    job = worker.queue.submit("learn", asked)
    done = worker.one()
    assert (done.state, done.error) == (DONE, None)
    kind = "loras" if way == "lora" else "models"
    assert done.result["made"] == "cats" and done.result["kind"] == kind and library.names(kind) == ["cats"]
    assert steps_of(job) == [1, 2]
    curve = json.loads(library.result(job.id, "curve.json").read_text())
    assert curve["loss"] and np.isfinite(curve["loss"][-1][1])
    with Image.open(library.result(job.id, "preview.png")) as preview:
        assert preview.size[0] >= 32
    worker.queue.submit("draw", {"settings": {"steps": 1}} | ({"loras": ["cats:0.5"]} if way == "lora" else {"model": "cats"}))
    assert worker.one().state == DONE


def test_paused_and_gone_on_is_as_if_it_had_not_stopped(worker, library):
    whole = worker.queue.submit("learn", ASKED)
    worker.one()
    other = Queue(library.folder)

    def tell(event):
        if event.get("step") == 2 and other.get(event["job"]).state == "running":
            other.pause(event["job"])

    worker.tell = tell
    job = worker.queue.submit("learn", ASKED)
    assert worker.one().state == INTERRUPTED
    worker.tell = lambda event: events.append(event)
    worker.queue.resume(job.id)
    assert worker.one().state == DONE
    assert steps_of(job) == [3, 4]
    first, second = (library.folder / "loras" / f"{worker.queue.get(one.id).result['made']}.safetensors" for one in (whole, job))
    one, two = (load_tensors(path)[0] for path in (first, second))
    assert first != second and one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    other.close()


def test_cancelled_leaves_nothing(worker, library):
    other = Queue(library.folder)
    worker.tell = lambda event: other.cancel(event["job"]) if event.get("step") == 1 else None
    job = worker.queue.submit("learn", ASKED)
    assert worker.one().state == CANCELLED and library.names("loras") == []
    assert not (library.folder / "work" / job.id).exists()
    other.close()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "album"),
        ({"album": "dogs"}, "no album 'dogs'"),
        ({"album": "../cats"}, "no album"),
        ({"album": "cats", "way": "lroa"}, "Did you mean 'lora'"),
        ({"album": "cats", "model": "/etc/passwd"}, "no model"),
        ({"album": "cats", "minutes": 0}, "minutes is 0"),
        ({"album": "cats", "minutes": float("nan")}, "minutes"),
        ({"album": "cats", "rank": -1}, "rank is -1"),
        ({"album": "cats", "ranks": 4}, "rank"),
        ({"album": "cats", "updates": "4"}, "updates"),
        ({"album": 3}, "album"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(asked, said, library):
    for name in ("learn", "estimate"):
        with pytest.raises(UserError) as error:
            kind(name).read(asked, library)
        assert said in str(error.value)
