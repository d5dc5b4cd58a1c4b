"""Every route of the studio, asked whatever its schema allows and much that it does not: no error of the server's, and no silence.

The studio is a real one, but nobody draws: its worker's name is taken, and a thread cancels each job that was let in, so that routes
which wait for pictures answer, and a picture of 16384 x 16384 pixels is asked for and not drawn. Each run asks the same.
"""

import tempfile
import threading
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, settings
from test_studio_server import TOO_LONG, begun

from reverie.studio.library import Library
from reverie.studio.queue import Queue
from reverie.studio.server import studio

schemathesis = pytest.importorskip("schemathesis")
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


def described():
    """The studio's own description of its routes, which needs no server."""
    with tempfile.TemporaryDirectory() as folder:
        return studio(Library(Path(folder)), None).app.openapi()


schema = schemathesis.openapi.from_dict(described())


@schema.parametrize()
@settings(max_examples=25, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_route_fails_or_is_silent(case, address):
    answer = case.call(base_url=address, timeout=SILENT)
    assert answer.status_code < 500, answer.text[:500]
