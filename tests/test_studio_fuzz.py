"""Every route of the studio, asked whatever its schema allows and much that it does not: no 5xx, and no silence.

The studio is a real one, but nobody draws: its worker's name is taken, and a thread cancels each job that was let in, so that
routes which wait for pictures answer, and a picture of 16384 x 16384 pixels is asked for and not drawn. Each run asks the same.
"""

import base64
import io
import json
import tempfile
import threading
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from test_studio_server import TOO_LONG, begun

from reverie.studio.library import Library
from reverie.studio.queue import Queue
from reverie.studio.server import studio

SILENT = 10.0
"""Seconds in which everything answers."""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    taken = Queue(folder)
    taken.work("worker-0")
    process, url = begun(folder)
    over = threading.Event()
    thread = threading.Thread(target=cancelling, args=(url, over))
    thread.start()
    yield url
    over.set()
    thread.join()
    process.terminate()
    process.communicate(timeout=TOO_LONG)
    taken.close()


def cancelling(url, over):
    """Ends each job that waits, until it is told that all is over."""
    with httpx.Client(base_url=url, timeout=TOO_LONG) as client:
        while not over.wait(0.02):
            for job in client.get("/v1/jobs", params={"state": "queued"}).json()["jobs"]:
                client.post(f"/v1/jobs/{job['id']}/cancel")


@pytest.fixture(scope="module")
def client(address):
    with httpx.Client(base_url=address, timeout=SILENT) as made:
        yield made


def described():
    """The studio's own description of its routes, which needs no server."""
    with tempfile.TemporaryDirectory() as folder:
        return studio(Library(Path(folder)), None).app.openapi()


schema = schemathesis.openapi.from_dict(described())


@schema.parametrize()
@settings(max_examples=20, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_route_fails_or_is_silent(case, address):
    answer = case.call(base_url=address, timeout=SILENT)
    assert answer.status_code < 500, answer.text[:500]


NAMES = (
    "model",
    "prompt",
    "settings",
    "loras",
    "tasks",
    "name",
    "image",
    "mask",
    "strength",
    "edit",
    "vary",
    "seed",
    "steps",
    "kind",
)
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["draw", "reverie-avatars", *NAMES])
INSIDE = st.recursive(VALUES, lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(NAMES) | st.text(), inner))


@given(body=st.dictionaries(st.sampled_from(NAMES), INSIDE))
@settings(max_examples=100, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_job_is_an_error_of_the_server(body, client):
    """What the schema leaves open: a job's own fields."""
    answer = client.post("/v1/jobs", content=json.dumps(body))
    assert answer.status_code in (202, 400) and (answer.status_code == 202 or answer.json()["error"]["message"]), answer.text
    assert client.get("/v1/jobs").status_code == 200


@given(at=st.integers(0, 400), changed=st.binary(min_size=1, max_size=8), kept=st.integers(0, 400))
@settings(max_examples=100, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_picture_is_an_error_of_the_server(at, changed, kept, client):
    """A picture that tells of its making, with bytes changed, and cut short."""
    info, out = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_itxt("reverie", json.dumps({"reverie": 1, "model": {"name": "a"}, "settings": {"prompt": "a", "seed": 1}}))
    info.add_text("parameters", "a\nSteps: 1, Sampler: Euler, Seed: 1")
    Image.new("RGB", (8, 8)).save(out, "PNG", pnginfo=info)
    data = out.getvalue()
    data = (data[:at] + changed + data[at + len(changed) :])[: len(data) - kept // 4]
    for answer in (
        client.post("/v1/uploads", content=data),
        client.post("/sdapi/v1/png-info", json={"image": base64.b64encode(data).decode()}),
    ):
        assert answer.status_code in (200, 201, 400), answer.text
