"""Kills of the studio at random moments: no job that was accepted is lost, none is done twice, every picture is as of a quiet run.

    OMP_NUM_THREADS=1 python bench/studio_crash.py --kills 200

Several clients send jobs, each with an idempotency key, again and again until they have an answer, while the server, one of its two
workers, or all of them are killed (SIGKILL) and the server is begun anew. At the end what was interrupted is resumed, and then
everything is counted and every picture compared, byte for byte, with those of a studio that nobody disturbed.
"""

import contextlib
import json
import os
import random
import signal
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import tyro
from PIL import Image
from studio_server import begun, children, free_port, machine

KINDS = [
    {"prompt": words, "settings": {"steps": steps, "seed": seed, "count": count, "batch": 1}}
    for seed, (words, steps, count) in enumerate(
        [
            ("a bald man", 3, 1),
            ("a smiling woman", 8, 2),
            ("green mohawk", 20, 1),
            ("a hat", 5, 3),
            ("a beard", 60, 2),
            ("a", 120, 1),
        ]
    )
]


@dataclass(frozen=True)
class Bench:
    kills: int = 200
    clients: int = 6
    seed: int = 0
    longest: float = 2.0
    """Seconds, at most, between a kill and what comes before: in three of four a picture that is being drawn, else anything."""
    out: Path = Path("bench/results/studio-crash.json")


@dataclass
class Seen:
    """What clients were told: ids by key, of each key the kind of its job."""

    ids: dict[str, set[str]] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)
    tries: Counter = field(default_factory=Counter)


def client(name: str, url: str, seen: Seen, seed: int) -> None:
    """Sends jobs, at most three of its own at once, and follows them by asking."""
    rng, waiting, number = random.Random(seed), [], 0
    with httpx.Client(base_url=url, timeout=10) as http:
        while not seen.over.is_set():
            if len(waiting) < 3:
                number += 1
                key, kind = f"{name}-{number}", rng.randrange(len(KINDS))
                seen.kinds[key] = kind
                waiting.append(sent(http, key, kind, name, seen))
                if rng.random() < 0.2:  # a client that is not sure sends it again
                    sent(http, key, kind, name, seen)
            with contextlib.suppress(httpx.HTTPError):
                waiting = [one for one in waiting if http.get(f"/v1/jobs/{one}").json()["state"] not in ("done", "failed")]
            time.sleep(0.05)


def sent(http: httpx.Client, key: str, kind: int, name: str, seen: Seen) -> str:
    """Until there is an answer."""
    while True:
        seen.tries["sent"] += 1
        try:
            answer = http.post("/v1/jobs", json=KINDS[kind], headers={"Idempotency-Key": key, "X-Client": name})
            answer.raise_for_status()
        except httpx.HTTPError as error:
            seen.tries[type(error).__name__] += 1
            time.sleep(0.05)
            continue
        seen.ids.setdefault(key, set()).add(answer.json()["id"])
        return answer.json()["id"]


def quiet(folder: Path) -> list[list[bytes]]:
    """The pictures of each kind, of a studio that nobody disturbs."""
    process, url = begun(folder, free_port())
    found = []
    with httpx.Client(base_url=url, timeout=60) as http:
        for kind in KINDS:
            job = ended(http, [http.post("/v1/jobs", json=kind).json()["id"]])[0]
            found.append([(folder / "pictures" / f"{name}.png").read_bytes() for name in job["result"]["pictures"]])
    process.terminate()
    process.wait()
    return found


def ended(http: httpx.Client, ids: list[str]) -> list[dict]:
    """The jobs once they are over; those that were interrupted are resumed, as a person would."""
    while True:
        for job in http.get("/v1/jobs", params={"state": "interrupted", "limit": 1000}).json()["jobs"]:
            http.post(f"/v1/jobs/{job['id']}/resume")
        jobs = [http.get(f"/v1/jobs/{one}").json() for one in ids]
        if all(job.get("state") in ("done", "failed", "cancelled", None) for job in jobs):
            return jobs
        time.sleep(0.2)


def killed(process: int, how: str, rng: random.Random) -> None:
    workers = children(process)
    chosen = {"server": [process], "worker": [rng.choice(workers)] if workers else [], "all": [*workers, process]}[how]
    for one in chosen:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def disturb(bench: Bench, folder: Path, port: int, seen: Seen) -> tuple[Counter, str, object]:
    """Kills and begins anew; (how often what was killed, address, the studio that lives)."""
    rng, done, since = random.Random(bench.seed), Counter(), 0.0
    process, url = begun(folder, port, "--workers", "2", "--resume")
    threads = [threading.Thread(target=client, args=(f"c{k}", url, seen, k), daemon=True) for k in range(bench.clients)]
    for thread in threads:
        thread.start()
    for k in range(bench.kills):
        busy = rng.random() < 0.75
        while busy and not drawing(folder, since):
            time.sleep(0.05)
        time.sleep(rng.uniform(0, bench.longest))
        how = rng.choice(("server", "worker", "all"))
        killed(process.pid, how, rng)
        since = time.time()
        done[how] += 1
        done["in hand"] += in_hand(folder) > 0
        if how != "worker":
            process.wait()
            process.stdout.close()
            process, _ = begun(folder, port, "--workers", "2", "--resume")
        print(f"kill {k + 1}: {how}; {len(seen.ids)} jobs", flush=True)
    seen.over.set()
    for thread in threads:
        thread.join()
    return done, url, process


def drawing(folder: Path, since: float) -> bool:
    """Whether a picture was shown after that time: a worker is at work."""
    for path in folder.glob("work/*/*.png"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime > since:
                return True
    return False


def in_hand(folder: Path) -> int:
    with contextlib.closing(sqlite3.connect(folder / "jobs.db")) as db:
        return db.execute("SELECT count(*) FROM jobs WHERE state = 'running'").fetchone()[0]


def judged(folder: Path, seen: Seen, jobs: dict[str, dict], whole: list[list[bytes]]) -> dict[str, int]:
    """Counts of what must be nothing."""
    wrong = Counter(lost=0, doubled=0, unreadable=0, different=0, strays=0, left=0)
    with contextlib.closing(sqlite3.connect(folder / "jobs.db")) as db:
        in_queue = db.execute("SELECT count(*) FROM jobs").fetchone()[0]
    wrong["doubled"] += in_queue - len(seen.ids) + sum(len(ids) - 1 for ids in seen.ids.values())
    expected = set()
    for key, (own, *_) in ((key, list(ids)) for key, ids in seen.ids.items()):
        job = jobs[own]
        if job.get("state") != "done":
            print(key, job)
            wrong["lost"] += 1
            continue
        names = job["result"]["pictures"]
        expected |= set(names)
        wrong["doubled"] += len(names) != len(whole[seen.kinds[key]]) or len(set(names)) != len(names)
        for name, bits in zip(names, whole[seen.kinds[key]], strict=False):
            file = folder / "pictures" / f"{name}.png"
            try:
                Image.open(file).load()
            except (OSError, SyntaxError):
                wrong["unreadable"] += 1
            wrong["different"] += file.read_bytes() != bits
    there = {path.name for path in (folder / "pictures").iterdir()}
    parts = {name for name in there if name.endswith(".part")}  # of writers that were killed: gone with the next write of that file
    wrong["strays"] += len(there - parts - {f"{name}.png" for name in expected})
    wrong["left"] += len(list((folder / "work").iterdir()))
    return {**wrong, "pictures": len(expected), "unfinished files": len(parts)}


def main(bench: Bench) -> None:
    begin, seen = time.monotonic(), Seen()
    with tempfile.TemporaryDirectory() as place:
        calm, folder = Path(place) / "calm", Path(place) / "studio"
        calm.mkdir()
        folder.mkdir()
        whole = quiet(calm)
        done, url, process = disturb(bench, folder, free_port(), seen)
        with httpx.Client(base_url=url, timeout=60) as http:
            ids = [one for ids in seen.ids.values() for one in ids]
            jobs = {one: job for one, job in zip(ids, ended(http, ids), strict=True)}
        process.terminate()
        process.wait()
        found = judged(folder, seen, jobs, whole)
    told = {"kills": dict(done), "jobs": len(seen.ids), "requests": dict(seen.tries), **found}
    told |= {"minutes": round((time.monotonic() - begin) / 60, 2), "machine": machine()}
    print(json.dumps(told))
    bench.out.write_text(json.dumps(told, indent=1) + "\n")
    if any(found[name] for name in ("lost", "doubled", "unreadable", "different", "strays", "left")):
        raise SystemExit(1)


if __name__ == "__main__":
    main(tyro.cli(Bench))
