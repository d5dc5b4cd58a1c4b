"""Jobs of kind `draw`: pictures of words and tasks, seen while they are drawn, and gone on with where they were interrupted."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reverie.errors import UserError
from reverie.files import write_whole
from reverie.solve import load_step, save_step
from reverie.studio.asked import Asked
from reverie.studio.asked import read as read
from reverie.studio.library import Library
from reverie.studio.queue import Job
from reverie.systems.system import System
from reverie.tasks import metadata
from reverie.tasks.generate import Picture, Preview, goes_on, notes, run
from reverie.tasks.settings import Settings

if TYPE_CHECKING:
    from reverie.studio.worker import Worker

KEPT_EVERY = 1.0
"""Seconds between steps that are kept."""


def do(worker: "Worker", job: Job, asked: Asked) -> Mapping[str, Any]:
    """Draws it; {pictures: their names, notes: what had no effect, count}."""
    system = worker.system(asked.model, asked.loras)
    tasks, settings = asked.tasks(system, worker.library)
    said, files = notes(system, settings, tasks), []
    begin = _begin(worker, job, system, settings)
    if begin is not None:
        files = [_file(worker.library, job, k) for k in range(begin.first)]
    kept = time.monotonic()
    for event in run(system, settings, tasks, begin):
        if isinstance(event, list):
            for picture in event:
                files.append(_keep(worker, job, len(files), picture, system))
            continue
        worker.go_on(job)
        show(worker, job, event)
        if goes_on(settings) and time.monotonic() - kept > KEPT_EVERY:
            save_step(event.step, _step(worker, job), {"first": event.first, "weights": system.hash})
            kept = time.monotonic()
    return {"pictures": [path.stem for path in files], "notes": said, "count": len(settings.prompts())}


def show(worker: "Worker", job: Job, preview: Preview) -> None:
    """The predicted clean pictures of this step, as files, and how far it is."""
    for k, image in enumerate(preview.pictures()):
        write_whole(worker.work(job) / f"{k}.png", lambda part, image=image: image.save(part, "PNG"))  # type: ignore[misc]
    told = {"step": preview.step.index + 1, "steps": preview.step.steps, "first": preview.first, "total": preview.total}
    worker.tell({"job": job.id, **told, "shown": len(preview.step.x)})


def _begin(worker: "Worker", job: Job, system: System, settings: Settings) -> Preview | None:
    """The step that was kept last, if the pictures before it are there and the weights are the same."""
    if not _step(worker, job).is_file() or not goes_on(settings):
        return None
    try:
        step, about = load_step(_step(worker, job))
    except UserError:
        return None
    before = all(_file(worker.library, job, k).is_file() for k in range(about["first"]))
    same = before and about["weights"] == system.hash
    return Preview(about["first"], len(settings.prompts()), step, system) if same else None


def _keep(worker: "Worker", job: Job, index: int, picture: Picture, system: System) -> Path:
    path = _file(worker.library, job, index)
    metadata.save(picture, system, path, job.asked.get("model", ""))  # by its name in the library, never its path
    worker.tell({"job": job.id, "picture": path.stem, "seed": picture.seed})
    return path


def _step(worker: "Worker", job: Job) -> Path:
    return worker.work(job) / "step.safetensors"


def _file(library: Library, job: Job, index: int) -> Path:
    return library.folder / "pictures" / f"{job.id}-{index}.png"
