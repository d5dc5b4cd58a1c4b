"""The queue of the studio: nothing is lost, nothing is done twice, and nobody waits for ever."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter

import pytest

from reverie.errors import UserError
from reverie.studio.queue import CANCELLED, DONE, INTERRUPTED, QUEUED, RUNNING, Full, Over, Queue, Unknown

WORKER = """
import pathlib, sys
from reverie.studio.queue import Queue
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
queue = Queue(folder)
queue.work(name)
print("ready", flush=True)
while (job := queue.claim(name)) is not None:
    with open(folder / "begun", "a") as file:
        file.write(job.id + "\\n")
    sum(k * k for k in range(20_000))
    if queue.end(job.id, name, "done", {"n": job.asked["n"]}):
        with open(folder / "done", "a") as file:
            file.write(job.id + "\\n")
"""


@pytest.fixture
def queue(tmp_path):
    made = Queue(tmp_path)
    yield made
    made.close()


def start(folder, name):
    """A worker in a process of its own, that has its lock."""
    process = subprocess.Popen([sys.executable, "-c", WORKER, str(folder), name], stdout=subprocess.PIPE, text=True)
    with process.stdout as said:
        assert said.readline() == "ready\n"
    return process


def test_what_is_asked_comes_back_in_its_order_and_ends_once(queue):
    made = [queue.submit("generate", {"n": k}) for k in range(3)]
    assert [queue.ahead(job.id) for job in made] == [0, 1, 2]
    queue.work("w")
    for job in made:
        got = queue.claim("w")
        assert (got.id, got.state, got.worker, got.asked) == (job.id, RUNNING, "w", job.asked)
        assert queue.end(job.id, "w", DONE, {"files": ["a.png"]})
        assert not queue.end(job.id, "w", DONE)
        assert queue.get(job.id).result == {"files": ["a.png"]}
    assert queue.claim("w") is None
    assert [job.id for job in queue.jobs(DONE)] == [job.id for job in reversed(made)]
    assert not queue.end(made[0].id, "another", DONE)


def test_clients_take_turns_and_priority_goes_before(queue):
    for k in range(20):
        queue.submit("generate", {"n": k}, client="many")
    queue.work("w")
    assert [queue.claim("w").asked["n"] for _ in range(3)] == [0, 1, 2]
    queue.submit("generate", {"n": "one"}, client="few")
    queue.submit("generate", {"n": "two"}, client="few")
    got = [queue.claim("w") for _ in range(4)]
    assert [job.client for job in got] == ["many", "few", "many", "few"]
    assert queue.submit("generate", {"n": "urgent"}, client="many", priority=1).id == queue.claim("w").id


def test_a_client_that_waited_long_has_saved_nothing_up(queue):
    """One that comes late begins with those that are there, and does not pass all of them for the time it was away."""
    queue.work("w")
    for k in range(10):
        queue.submit("generate", {"n": k}, client="a")
    for _ in range(8):
        queue.claim("w")
    for k in range(5):
        queue.submit("generate", {"n": k}, client="late")
    assert Counter(queue.claim("w").client for _ in range(4)) == {"a": 2, "late": 2}


def test_an_idempotency_key_is_one_request(queue):
    one = queue.submit("generate", {"n": 1, "m": 2}, client="c", key="k")
    assert queue.submit("generate", {"m": 2, "n": 1}, client="c", key="k").id == one.id
    assert queue.submit("generate", {"n": 1, "m": 2}, client="other", key="k").id != one.id
    with pytest.raises(UserError, match="another request: use a new one"):
        queue.submit("generate", {"n": 3}, client="c", key="k")
    assert queue.count(QUEUED) == 2


def test_what_is_cancelled_stays_so(queue, tmp_path):
    waits, runs, other = (queue.submit("generate", {"n": k}) for k in range(3))
    queue.work("w")
    assert queue.claim("w").id == waits.id
    assert queue.cancel(runs.id).state == CANCELLED
    job = queue.cancel(waits.id)
    assert job.state == RUNNING and job.stopping and queue.stopping(waits.id)
    assert not queue.get(other.id).stopping
    assert queue.end(waits.id, "w", CANCELLED)
    again = Queue(tmp_path)
    assert [again.get(job.id).state for job in (waits, runs, other)] == [CANCELLED, CANCELLED, QUEUED]
    for ask in (again.cancel, again.resume):
        with pytest.raises(Over, match="is cancelled"):
            ask(runs.id)
    with pytest.raises(Unknown, match="there is no job 'nobody'"):
        again.get("nobody")
    assert again.claim("w").id == other.id
    again.close()


def test_a_dead_workers_job_is_interrupted_and_goes_on_when_told(queue, tmp_path):
    for k in range(4000):
        queue.submit("generate", {"n": k})
    process = start(tmp_path, "w")
    while not queue.jobs(RUNNING) and process.poll() is None:
        pass
    with pytest.raises(UserError, match="runs already"):
        queue.work("w")
    assert queue.recover() == [], "a living worker keeps its job"
    process.send_signal(signal.SIGSTOP)  # so that it is killed with a job in hand
    had = queue.jobs(RUNNING)
    process.kill()
    process.wait()
    found = queue.recover()
    assert [job.id for job in found] == [job.id for job in had] and all(job.state == INTERRUPTED for job in found)
    for job in found:
        assert queue.resume(job.id).state == QUEUED and queue.ahead(job.id) == 0
    assert queue.count(DONE) + queue.count(QUEUED) == 4000


def test_a_job_that_was_cancelled_while_its_worker_died_is_cancelled(queue, tmp_path):
    job = queue.submit("generate", {"n": 0})
    gone = Queue(tmp_path)
    gone.work("w")
    gone.claim("w")
    queue.cancel(job.id)
    gone.close()
    assert [found.state for found in queue.recover()] == [CANCELLED]


def test_kills_lose_nothing_and_repeat_nothing(queue, tmp_path):
    """Three workers of 300 jobs, killed at random moments and begun anew: each job ends once."""
    count, rng = 300, random.Random(0)
    ids = {queue.submit("generate", {"n": k}, client=str(k % 7)).id for k in range(count)}
    workers = {name: start(tmp_path, name) for name in "abc"}
    for _ in range(12):
        name = rng.choice("abc")
        for _ in range(rng.randrange(200)):
            queue.count(DONE)
        workers[name].send_signal(signal.SIGKILL)
        workers[name].wait()
        for job in queue.recover():
            queue.resume(job.id)
        workers[name] = start(tmp_path, name)
    for name, process in workers.items():
        process.wait()
        assert process.returncode == 0, name
    assert queue.count(DONE) == count and {job.id for job in queue.jobs(DONE, limit=count)} == ids
    done = (tmp_path / "done").read_text().split()
    assert max(Counter(done).values()) == 1, "the law: none is done twice"


def test_threads_never_claim_one_job_twice(tmp_path):
    Queue(tmp_path).close()
    first = Queue(tmp_path)
    for k in range(200):
        first.submit("generate", {"n": k})
    got = []

    def work(name):
        own = Queue(tmp_path)
        own.work(name)
        while (job := own.claim(name)) is not None:
            got.append(job.id)
        own.close()

    threads = [threading.Thread(target=work, args=(f"w{k}",)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == len(set(got)) == 200
    first.close()


def test_a_broken_file_is_set_aside(tmp_path):
    queue = Queue(tmp_path)
    queue.submit("generate", {"n": 0})
    queue.close()
    (tmp_path / "jobs.db").write_bytes(b"no database" * 1000)
    queue = Queue(tmp_path)
    assert queue.broken == tmp_path / "jobs-broken.db" and queue.broken.read_bytes().startswith(b"no database")
    assert queue.count(QUEUED) == 0 and queue.submit("generate", {"n": 1}).state == QUEUED
    queue.close()


def test_a_newer_file_is_left_alone(tmp_path):
    Queue(tmp_path).close()
    with sqlite3.connect(tmp_path / "jobs.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    before = (tmp_path / "jobs.db").read_bytes()
    with pytest.raises(UserError, match="newer reverie"):
        Queue(tmp_path)
    assert (tmp_path / "jobs.db").read_bytes() == before


def test_there_is_an_end_to_what_may_wait(queue, monkeypatch):
    monkeypatch.setattr("reverie.studio.queue.MOST", 2)
    for k in range(2):
        queue.submit("generate", {"n": k})
    with pytest.raises(Full, match="2 jobs wait already"):
        queue.submit("generate", {"n": 3})


def test_names_are_inert(queue, tmp_path):
    worker = "../../etc/\x00'; DROP TABLE jobs; --" * 20
    job = queue.submit("generate", {"n": "'; DROP TABLE jobs"}, client="'\"<b>\n", key="'\x00")
    queue.work(worker)
    assert queue.claim(worker).id == job.id
    assert {path.parent for path in tmp_path.rglob("*.lock")} == {tmp_path}
    assert not [name for name in os.listdir(tmp_path) if "etc" in name]


def test_a_paused_job_waits_until_it_is_resumed(tmp_path):
    queue = Queue(tmp_path)
    queue.work("w")
    waiting, running = queue.submit("draw", {}), None
    assert queue.pause(waiting.id).state == INTERRUPTED and queue.claim("w") is None
    queue.resume(waiting.id)
    running = queue.claim("w")
    assert queue.stopping(running.id) is None
    assert queue.pause(running.id).stopping and queue.stopping(running.id) == INTERRUPTED
    assert queue.end(running.id, "w", INTERRUPTED) and queue.get(running.id).ended is None
    queue.resume(running.id)
    again = queue.claim("w")
    queue.cancel(again.id)
    queue.pause(again.id)
    assert queue.stopping(again.id) == CANCELLED, "what is cancelled stays so"
    queue.end(again.id, "w", CANCELLED)
    with pytest.raises(Over, match="only one that waits or runs can pause"):
        queue.pause(again.id)
    queue.close()
