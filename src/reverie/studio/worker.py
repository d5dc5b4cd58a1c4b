"""A process that draws what the queue holds, one job after the other; one for each device.

    python -m reverie.studio.worker FOLDER NAME

It says what happens as lines of JSON on its standard output, and looks for new jobs when a line comes on its standard input; when
that ends, so does it. Steps of a picture are kept on disk once a second, so that one that was interrupted goes on, bit for bit.
"""

import contextlib
import json
import os
import select
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from reverie.errors import UserError
from reverie.studio.kinds import kind
from reverie.studio.library import Library
from reverie.studio.queue import DONE, FAILED, INTERRUPTED, OVER, Job, Queue, Stopped, Taken, Unknown
from reverie.systems.shipped import open_model
from reverie.systems.system import System

Tell = Callable[[Mapping[str, Any]], object]
IDLE = 5.0
"""Seconds after which a worker that was told nothing looks for jobs, and for those of workers that are gone."""
MILD = 5
"""Drawing on a CPU takes all of it: it lets the server, which answers many in little time, go before."""
LONGEST = 2000
"""Characters of what went wrong."""


class Worker:
    """Draws jobs of `library` in the name of `name`; the model that was used last stays open."""

    def __init__(self, library: Library, name: str, tell: Tell = lambda event: None) -> None:
        self.library, self.name, self.tell = library, name, tell
        self.queue = Queue(library.folder)
        try:
            self.queue.work(name)
        except UserError:
            self.queue.close()
            raise
        self._tidy()
        self._open: tuple[Any, System] | None = None

    def one(self) -> Job | None:
        """Does the next job, if there is one, and gives it as it then is."""
        job = self.queue.claim(self.name)
        if job is None:
            return None
        self.tell({"job": job.id, "state": job.state})
        state, result, error = FAILED, None, None
        try:
            doing = kind(job.kind)
            result, state = doing.do(self, job, doing.read(job.asked, self.library)), DONE
        except Stopped as stopped:
            (state,) = stopped.args
        except UserError as wrong:
            error = self.library.unplaced(str(wrong))[:LONGEST]
        except Exception as wrong:
            traceback.print_exc()
            error = f"this went wrong ({type(wrong).__name__}): see the log of the studio"
        self.queue.end(job.id, self.name, state, result, error)
        if state != INTERRUPTED:
            shutil.rmtree(self.work(job), ignore_errors=True)
        self.tell({"job": job.id, "state": state} | ({"error": error} if error else {}))
        return self.queue.get(job.id)

    def system(self, model: str, loras: tuple[str, ...]) -> System:
        """The model, which is opened anew where it is another than before."""
        if self._open is None or self._open[0] != (model, loras):
            self.forget()  # so that two are never in memory
            opened = open_model(model, loras=loras)
            put_in = [each | {"given": self.library.unplaced(each["given"])} for each in opened.about.get("loras", ())]
            self._open = ((model, loras), replace(opened, about={**opened.about, "loras": put_in}) if put_in else opened)
        return self._open[1]

    def forget(self) -> None:
        """Closes the model that is open, before something that needs the memory."""
        self._open = None

    def go_on(self, job: Job) -> None:
        """Raises `Stopped` where somebody cancelled or paused the job: called at each of its steps."""
        if (state := self.queue.stopping(job.id)) is not None:
            raise Stopped(state)

    def _tidy(self) -> None:
        """Removes what is left of jobs that are over, whose workers died before they could."""
        for left in (self.library.folder / "work").iterdir():
            with contextlib.suppress(Unknown):  # of a queue that was set aside: it may be hours of learning
                if self.queue.get(left.name).state in OVER:
                    shutil.rmtree(left, ignore_errors=True)

    def work(self, job: Job) -> Path:
        """The folder of what it needs to go on, and shows; gone once it is over."""
        made = self.library.folder / "work" / job.id
        made.mkdir(exist_ok=True)
        return made

    def results(self, job: Job) -> Path:
        """The folder of what a job makes that is no picture of the gallery; `Library.result` finds it."""
        made = self.library.folder / "results" / job.id
        made.mkdir(exist_ok=True)
        return made


def tell(event: Mapping[str, Any]) -> None:
    """Says it to the server; without one this process ends at once, and its job is interrupted, not failed."""
    try:
        print(json.dumps(event), flush=True)
    except OSError:
        os._exit(1)  # what is buffered cannot be said, and not be tried again


def begun(library: Library, name: str) -> Worker | None:
    """The worker, as soon as none of a server before this one goes by its name; None where nobody wants it any more."""
    while True:
        try:
            return Worker(library, name, tell)
        except Taken:
            heard, _, _ = select.select([sys.stdin], [], [], 1.0)
            if heard and not sys.stdin.readline():
                return None


def main(folder: str, name: str) -> None:
    """Works until its input ends."""
    os.nice(MILD)
    worker = begun(Library(Path(folder)), name)
    if worker is None:
        return
    tell({"worker": name})
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
