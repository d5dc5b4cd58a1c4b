"""The server's side of its workers: they are processes, and what they say is kept, the latest of each job, for whoever looks.

The queue is asked in a thread of its own, so that the server answers others while the disk works; what only reads, in a second one.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from reverie.errors import UserError
from reverie.studio.kinds import kind as read
from reverie.studio.queue import INTERRUPTED, MOST, OVER, RUNNING, Job, Over, Queue

if TYPE_CHECKING:
    from reverie.studio.library import Library

T = TypeVar("T")
Gone = Callable[[], Awaitable[bool]]
KEPT = 1000
"""Jobs of which the latest event is remembered."""
LINE = 2**20
"""Bytes of a line that a worker says."""
BRIEF = 1.0
"""Seconds: a worker that lives no longer is begun anew after as long."""
HEAVIEST = 1_000_000
"""Characters of a job; pictures are sent before it, and only named in it."""


class Hands:
    """The queue, and the workers of it."""

    def __init__(self, library: "Library", workers: int = 1) -> None:
        self.library, self.count = library, workers
        self.latest: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, "queue")
        self._reading = ThreadPoolExecutor(1, "queue-reading")
        self._workers: list[asyncio.subprocess.Process] = []
        self._readers: list[asyncio.Task[None]] = []
        self._news: dict[str, asyncio.Event] = {}
        self._left: set[str] = set()

    async def start(self, resume: bool = False) -> None:
        """Begins the workers. resume: jobs that were interrupted wait again."""
        self.queue = await self._apart(lambda: Queue(self.library.folder))
        self._own = await asyncio.get_running_loop().run_in_executor(self._reading, lambda: Queue(self.library.folder))
        await self.ask(Queue.recover)
        self._left = {job.id for job in await self.ask(Queue.jobs, RUNNING)} if resume else set()
        for job in await self.ask(Queue.jobs, INTERRUPTED, limit=MOST) if resume else ():
            await self.ask(Queue.resume, job.id)
        for k in range(self.count):
            await self._begin(f"worker-{k}")

    async def _begin(self, name: str) -> None:
        pipe = asyncio.subprocess.PIPE
        command = (sys.executable, "-m", "reverie.studio.worker", str(self.library.folder), name)
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=LINE)
        self._workers.append(process)
        self._readers.append(asyncio.create_task(self._listen(process, name)))

    async def _listen(self, process: asyncio.subprocess.Process, name: str) -> None:
        """Hears a worker until it ends; one that ended by itself is begun anew, and its job is interrupted."""
        assert process.stdout is not None
        begun = time.monotonic()
        async for line in process.stdout:
            with contextlib.suppress(ValueError):  # what a library prints is not for us
                if isinstance(event := json.loads(line), dict):
                    await self._again(event)
                    self.heard(event)
        await process.wait()
        self._workers.remove(process)
        for job in await self.ask(Queue.recover):
            self.heard({"job": job.id, "state": job.state})
        if time.monotonic() - begun < BRIEF:
            await asyncio.sleep(BRIEF)  # so that one that cannot begin keeps no core busy
        await self._begin(name)

    async def _again(self, event: Mapping[str, Any]) -> None:
        """Resumes, where that is wanted, a job that a worker of the server before this one still drew when this one began."""
        if event.get("state") == INTERRUPTED and event.get("job") in self._left:
            self._left.discard(event["job"])
            with contextlib.suppress(Over):
                await self.ask(Queue.resume, event["job"])
            self.call()

    def heard(self, event: Mapping[str, Any]) -> None:
        """Something is new of a job."""
        if (job := event.get("job")) is None:
            return
        old = {} if "state" in event and event["state"] in (*OVER, INTERRUPTED) else self.latest.pop(job, {})
        self.latest[job] = {**old, **event}
        while len(self.latest) > KEPT:
            self.latest.popitem(last=False)
        self._wake(job)

    def _wake(self, job: str) -> None:
        if (news := self._news.pop(job, None)) is not None:
            news.set()

    async def stop(self) -> None:
        """Workers finish their step and end; what they were drawing is interrupted, and its last kept step stays."""
        for reader in self._readers:
            reader.cancel()
        for process in self._workers:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        for process in self._workers:
            await process.wait()
        await self.ask(Queue.recover)
        await self.look(Queue.close)
        await self.ask(Queue.close)
        self._reading.shutdown()
        self._thread.shutdown()

    async def ask(self, what: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """A method of the queue, in its thread."""
        return await self._apart(lambda: what(self.queue, *args, **kwargs))

    async def look(self, what: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """The same, of what only reads, which waits for no write."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, lambda: what(self._own, *args, **kwargs))

    async def submit(
        self, wish: Mapping[str, Any], kind: str = "draw", client: str = "", priority: int = 0, key: str | None = None
    ) -> Job:
        """Takes a job once it is read; UserError for whatever can be known to be wrong of it."""
        try:
            length = len(json.dumps(wish, ensure_ascii=False, allow_nan=False).encode())
        except (ValueError, RecursionError):  # NaN, infinity, half a character, a list in lists without end
            raise UserError("the job is no sound JSON: its text must be Unicode, and its numbers finite") from None
        if length > HEAVIEST:
            raise UserError(f"the job has {length} bytes; at most {HEAVIEST} are taken: send pictures first, and name them")
        await asyncio.to_thread(lambda: read(kind).read(wish, self.library))
        job = await self.ask(Queue.submit, kind, wish, client, priority, key)
        self.call()
        return job

    async def finished(self, id: str, gone: Gone | None = None) -> Job:
        """The job once it is over; it is cancelled where whoever waits for it is gone."""
        async for job, _ in self.changes(id, 1.0 if gone else None):
            if job is not None and job.state in (*OVER, INTERRUPTED):
                return job
            if gone is not None and await gone():
                await self.leave(id)
        return await self.ask(Queue.get, id)

    async def leave(self, id: str) -> None:
        """Ends a job that nobody waits for any more, if it has not ended."""
        with contextlib.suppress(Over):
            await self.cancel(id)

    def eta(self, job: Job, share: float) -> float | None:
        """Seconds that are left of a job of which this share is done."""
        return (time.time() - job.begun) * (1 - share) / share if job.begun and share else None

    async def _apart(self, what: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, what)

    def call(self) -> None:
        """Tells the workers to look at the queue."""
        for process in self._workers:
            if process.stdin is not None and not process.stdin.is_closing():
                process.stdin.write(b"\n")

    async def cancel(self, id: str) -> Job:
        job = await self.ask(Queue.cancel, id)
        if job.state in OVER:
            self.heard({"job": id, "state": job.state})
        return job

    async def changes(self, id: str, beat: float | None = None) -> AsyncIterator[tuple[Job | None, Mapping[str, Any]]]:
        """A job each time that something is new of it, until it is over; a slow reader misses what was between.

        beat: seconds after which nothing new is told, too, as None. Raises `Unknown` where there is none.
        """
        while True:
            news = self._news.setdefault(id, asyncio.Event())
            job = await self.look(Queue.get, id)
            yield job, self.latest.get(id, {})
            if job.state in (*OVER, INTERRUPTED):
                return
            while True:
                try:
                    await asyncio.wait_for(news.wait(), beat)
                    break
                except TimeoutError:
                    yield None, {}
