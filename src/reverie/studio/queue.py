"""Jobs that are never lost and never done twice: a table in SQLite, which survives kill -9 and power loss.

Many processes may hold the same file. A worker claims a job in one transaction, so that no two ever have the same; it holds a lock
on a file of its own while it lives, which the system takes back when it dies, whatever way. A job whose worker is gone is
`interrupted`, and runs again when somebody says so.

Who is next: the highest priority; among those, clients in turn. A job's turn is one after its client's last, and not before that of
the job begun last (start-time fair queueing, Goyal et al., 1996), so that one client's thousand jobs let another's one pass.
"""

import contextlib
import hashlib
import json
import os
import sqlite3
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from reverie.errors import UserError
from reverie.files import free

QUEUED, RUNNING, DONE, FAILED, CANCELLED, INTERRUPTED = "queued", "running", "done", "failed", "cancelled", "interrupted"
OVER = (DONE, FAILED, CANCELLED)
"""States that a job never leaves."""
MOST = 100_000
"""Jobs that may wait at once."""
PAUSE, CANCEL = 1, 2
"""What `stopping` says of a running job."""

# One script for each version of the file; `PRAGMA user_version` says how many of them it has seen.
_VERSIONS = (
    """
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, client TEXT NOT NULL, key TEXT, kind TEXT NOT NULL,
        asked TEXT NOT NULL, priority INTEGER NOT NULL, turn INTEGER NOT NULL, state TEXT NOT NULL, worker TEXT,
        stopping INTEGER NOT NULL DEFAULT 0, made REAL NOT NULL, begun REAL, ended REAL, error TEXT, result TEXT
    );
    CREATE INDEX next ON jobs (priority DESC, turn, number) WHERE state = 'queued';
    CREATE INDEX turns ON jobs (client, turn);
    CREATE INDEX states ON jobs (state, number);
    CREATE UNIQUE INDEX keys ON jobs (client, key) WHERE key IS NOT NULL;
    CREATE TABLE clock (turn INTEGER NOT NULL);
    INSERT INTO clock VALUES (0);
    """,
)


class Unknown(UserError):
    """No job has this id."""


class Over(UserError):
    """What was asked of a job cannot be asked in its state."""


class Stopped(Exception):
    """Somebody cancelled or paused the job, which becomes what the argument says."""


class Taken(UserError):
    """A worker of this name lives."""


class Full(UserError):
    """More jobs wait than may."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What was asked, by whom, and what became of it. made, begun, ended: seconds since 1970.

    stopping: a running job that was cancelled or paused, whose worker has not seen it yet.
    """

    id: str
    client: str
    kind: str
    asked: Mapping[str, Any]
    priority: int
    state: str
    worker: str | None
    stopping: bool
    made: float
    begun: float | None
    ended: float | None
    error: str | None
    result: Any = field(default=None)


class Queue:
    """The jobs in `folder`/jobs.db. One object serves one thread; processes and threads each open their own.

    A file that is no sound database is set aside as jobs-broken.db, and an empty one takes its place: `broken` names it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.broken: Path | None = None
        self._lock: BaseFileLock | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "jobs.db"
        with FileLock(self.folder / "jobs.lock"):
            try:
                self._db = self._opened()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise UserError(f"cannot open {self.path}: {error}; choose a folder that is writable and has room") from None
                self.broken = self._set_aside()
                self._db = self._opened()

    def _opened(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        try:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")  # a job that was accepted is on the disk
            if (found := db.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(found)
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > len(_VERSIONS):
                raise UserError(f"{self.path} is of a newer reverie (version {version} of its table): use that one")
            for script in _VERSIONS[version:]:
                version += 1
                db.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {version}; COMMIT")
        except BaseException:
            db.close()
            raise
        return db

    def _set_aside(self) -> Path:
        """With its log, which belongs to it."""
        aside = free(self.path.with_name("jobs-broken.db"))
        for end in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{self.path}{end}", f"{aside}{end}")
        return aside

    def close(self) -> None:
        self._db.close()
        if self._lock is not None:
            self._lock.release()

    @contextlib.contextmanager
    def _whole(self) -> Iterator[sqlite3.Connection]:
        """A transaction that reads what it writes on."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # what clients do

    def submit(self, kind: str, asked: Mapping[str, Any], client: str = "", priority: int = 0, key: str | None = None) -> Job:
        """A new job; the same `key` of the same client gives the job that it gave before. UserError where that asked otherwise."""
        text, now = json.dumps(asked, sort_keys=True), time.time()
        with self._whole() as db:
            old = None if key is None else db.execute("SELECT * FROM jobs WHERE client = ? AND key = ?", (client, key)).fetchone()
            if old is not None:
                if (old["kind"], old["asked"]) != (kind, text):
                    raise UserError(f"the idempotency key {key!r:.80} was used for another request: use a new one")
                return _job(old)
            if self.count(QUEUED) >= MOST:
                raise Full(f"{MOST} jobs wait already: ask again when some are done")
            last = db.execute("SELECT max(turn) FROM jobs WHERE client = ?", (client,)).fetchone()[0] or 0
            turn = max(last, db.execute("SELECT turn FROM clock").fetchone()[0]) + 1
            row = (uuid.uuid4().hex, client, key, kind, text, priority, turn, QUEUED, now)
            names = "id, client, key, kind, asked, priority, turn, state, made"
            made = db.execute(f"INSERT INTO jobs ({names}) VALUES ({', '.join('?' * len(row))}) RETURNING *", row).fetchone()
        return _job(made)

    def get(self, id: str) -> Job:
        """Unknown where there is none."""
        row = self._db.execute("SELECT * FROM jobs WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise Unknown(f"there is no job {id!r:.80}: check its id")
        return _job(row)

    def cancel(self, id: str) -> Job:
        """One that waits ends at once; one that runs as soon as its worker looks, within a step. Over where it has ended."""
        with self._whole() as db:
            job = self.get(id)
            if job.state in OVER:
                raise Over(f"job {id} is {job.state} already")
            if job.state == RUNNING:
                db.execute("UPDATE jobs SET stopping = ? WHERE id = ?", (CANCEL, id))
            else:
                db.execute("UPDATE jobs SET state = ?, ended = ? WHERE id = ?", (CANCELLED, time.time(), id))
        return self.get(id)

    def pause(self, id: str) -> Job:
        """It is interrupted, until it is resumed: at once, or as soon as its worker looks. Over where it does not wait or run."""
        with self._whole() as db:
            job = self.get(id)
            if job.state not in (QUEUED, RUNNING):
                raise Over(f"job {id} is {job.state}: only one that waits or runs can pause")
            if job.state == RUNNING:
                db.execute("UPDATE jobs SET stopping = max(stopping, ?) WHERE id = ?", (PAUSE, id))
            else:
                db.execute("UPDATE jobs SET state = ? WHERE id = ?", (INTERRUPTED, id))
        return self.get(id)

    def resume(self, id: str) -> Job:
        """One that was interrupted waits again, in its old turn. Over where it was not."""
        with self._whole() as db:
            job = self.get(id)
            if job.state != INTERRUPTED:
                raise Over(f"job {id} is {job.state}: only one that was interrupted can go on")
            db.execute("UPDATE jobs SET state = ?, worker = NULL WHERE id = ?", (QUEUED, id))
        return self.get(id)

    def jobs(self, *states: str, client: str | None = None, limit: int = 100) -> list[Job]:
        """The newest first; of all states where none is named."""
        where: list[str] = ["1"]
        values: list[str] = []
        if states:
            where.append(f"state IN ({', '.join('?' * len(states))})")
            values += states
        if client is not None:
            where.append("client = ?")
            values.append(client)
        rows = self._db.execute(f"SELECT * FROM jobs WHERE {' AND '.join(where)} ORDER BY number DESC LIMIT ?", (*values, limit))
        return [_job(row) for row in rows]

    def count(self, state: str) -> int:
        return int(self._db.execute("SELECT count(*) FROM jobs WHERE state = ?", (state,)).fetchone()[0])

    def ahead(self, id: str) -> int:
        """How many of those that wait come before it."""
        those = "SELECT count(*) FROM jobs INDEXED BY next WHERE state = 'queued'"
        above, before = "priority > own.priority", "priority = own.priority AND (turn, number) < (own.turn, own.number)"
        asked = f"SELECT ({those} AND {above}) + ({those} AND {before}) FROM jobs AS own WHERE id = ?"
        found = self._db.execute(asked, (id,)).fetchone()
        return 0 if found is None else int(found[0])

    # what workers do

    def work(self, worker: str) -> None:
        """This object is that worker until it is closed or its process ends. Taken where another lives by this name."""
        lock = FileLock(self._place(worker), thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise Taken(f"a worker {worker!r:.80} runs already: stop it, or give this one another name") from None
        self._lock = lock
        self._gone(worker)

    def claim(self, worker: str) -> Job | None:
        """The next job, which is this worker's from now on; None where none waits."""
        with self._whole() as db:
            row = db.execute("SELECT * FROM jobs WHERE state = 'queued' ORDER BY priority DESC, turn, number LIMIT 1").fetchone()
            if row is None:
                return None
            db.execute("UPDATE clock SET turn = max(turn, ?)", (row["turn"],))
            change = "UPDATE jobs SET state = ?, worker = ?, stopping = 0, begun = coalesce(begun, ?) WHERE id = ? RETURNING *"
            return _job(db.execute(change, (RUNNING, worker, time.time(), row["id"])).fetchone())

    def stopping(self, id: str) -> str | None:
        """What this running job is to become as soon as it can, if somebody has cancelled or paused it."""
        found = self._db.execute("SELECT stopping FROM jobs WHERE id = ?", (id,)).fetchone()
        return {PAUSE: INTERRUPTED, CANCEL: CANCELLED}.get(found[0])

    def end(self, id: str, worker: str, state: str, result: Any = None, error: str | None = None) -> bool:
        """Whether the job was still this worker's, and so is now over, or interrupted. What it made must lie on the disk before."""
        change = (
            "UPDATE jobs SET state = ?, result = ?, error = ?, ended = ?, stopping = 0 WHERE id = ? AND worker = ? AND state = ?"
        )
        text = None if result is None else json.dumps(result)
        return (
            self._db.execute(
                change, (state, text, error, None if state == INTERRUPTED else time.time(), id, worker, RUNNING)
            ).rowcount
            == 1
        )

    def recover(self) -> list[Job]:
        """Jobs of workers that are gone become `interrupted` (or cancelled, where somebody had); which they are."""
        rows = self._db.execute("SELECT DISTINCT worker FROM jobs WHERE state = ?", (RUNNING,)).fetchall()
        found = []
        for (worker,) in rows:
            lock = FileLock(self._place(worker))
            with contextlib.suppress(Timeout), lock.acquire(blocking=False):
                found += self._gone(worker)
        return found

    def _gone(self, worker: str) -> list[Job]:
        change = (
            "UPDATE jobs SET state = iif(stopping = 2, 'cancelled', 'interrupted'), ended = iif(stopping = 2, ?, NULL),"
            " stopping = 0 WHERE state = 'running' AND worker = ? RETURNING *"
        )
        return [_job(row) for row in self._db.execute(change, (time.time(), worker)).fetchall()]

    def _place(self, worker: str) -> Path:
        """Of the lock that it holds while it lives; whatever its name, the file is in the folder."""
        return self.folder / f"worker-{hashlib.sha256(worker.encode()).hexdigest()[:32]}.lock"


def _job(row: sqlite3.Row) -> Job:
    told = {name: row[name] for name in Job.__dataclass_fields__}
    result = None if told["result"] is None else json.loads(told["result"])
    return Job(**{**told, "asked": json.loads(told["asked"]), "result": result, "stopping": bool(told["stopping"])})
