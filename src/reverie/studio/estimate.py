"""Jobs of kind `estimate`: what a job of kind `learn` would take, tried out; it asks for the same."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reverie.studio.learn import Learn, opened
from reverie.studio.learn import read as read
from reverie.studio.queue import Job
from reverie.train.estimate import told, tried

if TYPE_CHECKING:
    from reverie.studio.worker import Worker


def do(worker: "Worker", job: Job, asked: Learn) -> Mapping[str, Any]:
    """{said: a line for a person, seconds: of a step, steps, memory: bytes}."""
    run = opened(worker, job, asked).run
    found = tried(run)
    steps = run.steps or int(60 * run.training.minutes / found.seconds)
    said = told(found, run, worker.library.albums()[asked.album])
    return {"said": said, "seconds": found.seconds, "steps": steps, "memory": found.memory}
