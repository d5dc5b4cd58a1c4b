"""A process that draws what the queue holds, one job after the other; one for each device.

    python -m reverie.studio.worker FOLDER NAME

It says what happens as lines of JSON on its standard output, and looks for new jobs when a line comes on its standard input; when
that ends, so does it. Steps of a picture are kept on disk once a second, so that one that was interrupted goes on, bit for bit.
"""

import json
import select
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reverie.errors import UserError
from reverie.files import write_whole
from reverie.solve import load_step, save_step
from reverie.studio.asked import read
from reverie.studio.library import Library
from reverie.studio.queue import CANCELLED, DONE, FAILED, Job, Queue
from reverie.systems.shipped import open_model
from reverie.systems.system import System
from reverie.tasks import metadata
from reverie.tasks.generate import Picture, Preview, goes_on, notes, run
from reverie.tasks.settings import Settings

Tell = Callable[[Mapping[str, Any]], object]
KEPT_EVERY = 1.0
"""Seconds between steps that are kept."""
IDLE = 5.0
"""Seconds after which a worker that was told nothing looks for jobs, and for those of workers that are gone."""


class Stopped(Exception):
    """Somebody cancelled the job."""


class Worker:
    """Draws jobs of `library` in the name of `name`; the model that was used last stays open."""

    def __init__(self, library: Library, name: str, tell: Tell = lambda event: None) -> None:
        self.library, self.name, self.tell = library, name, tell
        self.queue = Queue(library.folder)
        self.queue.work(name)
        self._open: tuple[Any, System] | None = None

    def one(self) -> Job | None:
        """Does the next job, if there is one, and gives it as it then is."""
        job = self.queue.claim(self.name)
        if job is None:
            return None
        self.tell({"job": job.id, "state": job.state})
        state, result, error = FAILED, None, None
        try:
            result, state = self._drawn(job), DONE
        except Stopped:
            state = CANCELLED
        except UserError as wrong:
            error = str(wrong)
        except Exception as wrong:
            traceback.print_exc()
            error = f"the picture could not be drawn ({type(wrong).__name__}): see the log of the studio"
        self.queue.end(job.id, self.name, state, result, error)
        self._forget(job)
        self.tell({"job": job.id, "state": state} | ({"error": error} if error else {}))
        return self.queue.get(job.id)

    def system(self, model: str, loras: tuple[str, ...]) -> System:
        """The model, which is opened anew where it is another than before."""
        if self._open is None or self._open[0] != (model, loras):
            self._open = None  # so that two are never in memory
            self._open = ((model, loras), open_model(model, loras=loras))
        return self._open[1]

    def _drawn(self, job: Job) -> dict[str, Any]:
        asked = read(job.asked, self.library)
        system = self.system(asked.model, asked.loras)
        tasks, settings = asked.tasks(system, self.library)
        said, files = notes(system, settings, tasks), []
        begin = self._begin(job, system, settings)
        total = len(settings.prompts())
        if begin is not None:
            files = [self.file(job, k) for k in range(begin.first)]
        kept = time.monotonic()
        for event in run(system, settings, tasks, begin):
            if isinstance(event, list):
                for picture in event:
                    files.append(self._keep(job, len(files), picture, system))
                continue
            if self.queue.stopping(job.id):
                raise Stopped
            self._show(job, event)
            if goes_on(settings) and time.monotonic() - kept > KEPT_EVERY:
                save_step(event.step, self.step(job), {"first": event.first, "weights": system.hash})
                kept = time.monotonic()
        return {"pictures": [path.stem for path in files], "notes": said, "count": total}

    def _begin(self, job: Job, system: System, settings: Settings) -> Preview | None:
        """The step that was kept last, if the pictures before it are there and the weights are the same."""
        if not self.step(job).is_file() or not goes_on(settings):
            return None
        try:
            step, about = load_step(self.step(job))
        except UserError:
            return None
        before = all(self.file(job, k).is_file() for k in range(about["first"]))
        same = before and about["weights"] == system.hash
        return Preview(about["first"], len(settings.prompts()), step, system) if same else None

    def _keep(self, job: Job, index: int, picture: Picture, system: System) -> Path:
        path = self.file(job, index)
        metadata.save(picture, system, path)
        self.tell({"job": job.id, "picture": path.stem, "seed": picture.seed})
        return path

    def _show(self, job: Job, preview: Preview) -> None:
        """The predicted clean pictures of this step, as files, and how far it is."""
        for k, image in enumerate(preview.pictures()):
            write_whole(self.work(job) / f"{k}.png", lambda part, image=image: image.save(part, "PNG"))  # type: ignore[misc]
        told = {"step": preview.step.index + 1, "steps": preview.step.steps, "first": preview.first, "total": preview.total}
        self.tell({"job": job.id, **told, "shown": len(preview.step.x)})

    def _forget(self, job: Job) -> None:
        """What a job that is over leaves of its way."""
        for path in [*self.work(job).glob("*"), self.work(job)]:
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)

    def work(self, job: Job) -> Path:
        made = self.library.folder / "work" / job.id
        made.mkdir(exist_ok=True)
        return made

    def step(self, job: Job) -> Path:
        return self.work(job) / "step.safetensors"

    def file(self, job: Job, index: int) -> Path:
        return self.library.folder / "pictures" / f"{job.id}-{index}.png"


def main(folder: str, name: str) -> None:
    """Works until its input ends."""
    worker = Worker(Library(Path(folder)), name, lambda event: print(json.dumps(event), flush=True))
    worker.tell({"worker": name})
    while True:
        for job in worker.queue.recover():
            worker.tell({"job": job.id, "state": job.state})
        while worker.one() is not None:
            pass
        heard, _, _ = select.select([sys.stdin], [], [], IDLE)
        if heard and not sys.stdin.readline():
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
