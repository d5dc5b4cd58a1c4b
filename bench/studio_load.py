"""The studio under load: 100 clients, 10,000 jobs that wait, readers of events that do not read.

    OMP_NUM_THREADS=1 python bench/studio_load.py

Each client sends its share of the jobs, then asks for one of them once a second, as a page that shows a job does; half of them
hold a stream of events open, too, of which they read nothing. The worker draws meanwhile, on the same cores. Measured: how long
`GET /v1/jobs/ID` takes, by the clock of the client; how long a request that only the event loop answers takes (a file that is not
there), which is how late the loop is; and the server's memory, before, with all jobs in the queue, and at the end.
"""

import asyncio
import contextlib
import json
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import tyro
from studio_server import begun, children, free_port, machine, memory


@dataclass(frozen=True)
class Bench:
    clients: int = 100
    jobs: int = 10_000
    seconds: float = 60.0
    """How long they ask, once all jobs wait."""
    every: float = 1.0
    """Seconds between two questions of a client."""
    out: Path = Path("bench/results/studio-load.json")


async def sends(http: httpx.AsyncClient, name: str, count: int, took: list[float]) -> list[str]:
    """One after the other."""
    ids = []
    for k in range(count):
        asked = {"prompt": f"a bald man {k}", "settings": {"steps": 20, "seed": k, "count": 2}}
        begin = time.perf_counter()
        answer = await http.post("/v1/jobs", json=asked, headers={"X-Client": name})
        took.append(time.perf_counter() - begin)
        answer.raise_for_status()
        ids.append(answer.json()["id"])
    return ids


async def asks(http: httpx.AsyncClient, path, every: float, until: float, took: list[float], rng: random.Random) -> None:
    """Again and again until that time, beginning at a moment of its own."""
    await asyncio.sleep(rng.uniform(0, every))
    while time.perf_counter() < until:
        begin = time.perf_counter()
        answer = await http.get(path())
        took.append(time.perf_counter() - begin)
        assert answer.status_code in (200, 404), answer.text
        await asyncio.sleep(max(0.0, begin + every - time.perf_counter()))


async def reads_nothing(port: int, id: str) -> asyncio.StreamWriter:
    """A stream of events that is opened, and not read."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    writer.write(f"GET /v1/jobs/{id}/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    await writer.drain()
    return writer


def spread(seconds: list[float]) -> dict[str, float]:
    """Milliseconds: the middle, what 95 and 99 of 100 stay below, and the longest."""
    at = {"p50": 50, "p95": 95, "p99": 99, "max": 100}
    return {name: round(1000 * float(np.percentile(seconds, share)), 2) for name, share in at.items()} | {"count": len(seconds)}


async def load(bench: Bench, port: int, process: int) -> dict:
    rng, took = random.Random(0), {"sent": [], "status": [], "loop": [], "loop, sending": [], "waiting": []}
    async with contextlib.AsyncExitStack() as stack:
        own = [httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, verify=False) for _ in range(bench.clients + 2)]
        https = [await stack.enter_async_context(one) for one in own]  # a pool that all share is slower than the server
        http, prober = https[-2:]
        (await http.get("/v1/models")).raise_for_status()
        megabytes = {"before": memory(process)}
        share = bench.jobs // bench.clients
        begin = time.perf_counter()
        probe = asyncio.create_task(asks(prober, lambda: "/nothing", 0.05, begin + 3600, took["loop, sending"], rng))
        groups = await asyncio.gather(*(sends(one, f"c{k}", share, took["sent"]) for k, one in enumerate(https[:-2])))
        filled = time.perf_counter() - begin
        probe.cancel()
        megabytes["queued"] = memory(process)
        slow = [await reads_nothing(port, rng.choice(ids)) for ids in groups[::2]]
        waiting = (await http.get("/v1/jobs", params={"state": "queued", "limit": 1000})).json()["jobs"]
        until = time.perf_counter() + bench.seconds
        each = [
            asks(one, lambda ids=ids: f"/v1/jobs/{rng.choice(ids)}", bench.every, until, took["status"], rng)
            for one, ids in zip(https, groups, strict=False)
        ]
        probe = asks(prober, lambda: "/nothing", 0.05, until, took["loop"], rng)
        lists = asks(http, lambda: "/v1/jobs?state=queued&limit=1", 1.0, until, took["waiting"], rng)
        half = asyncio.create_task(_memory_at(process, until - bench.seconds / 2))
        await asyncio.gather(*each, probe, lists)
        megabytes |= {"middle": await half, "end": memory(process)}
        for writer in slow:
            writer.close()
    told = {"megabytes of the server": {name: round(mb, 1) for name, mb in megabytes.items()}}
    told |= {"seconds to send all": round(filled, 1), "listed as waiting": len(waiting)}
    names = {
        "sent": "POST /v1/jobs",
        "status": "GET /v1/jobs/ID",
        "loop": "event loop",
        "loop, sending": "event loop, while all send",
        "waiting": "GET /v1/jobs",
    }
    return told | {"milliseconds": {names[name]: spread(took[name]) for name in took}}


async def _memory_at(process: int, when: float) -> float:
    await asyncio.sleep(max(0.0, when - time.perf_counter()))
    return memory(process)


def main(bench: Bench) -> None:
    with tempfile.TemporaryDirectory() as place:
        port = free_port()
        process, _ = begun(Path(place), port)
        try:
            found = asyncio.run(load(bench, port, process.pid))
            found["megabytes of the worker"] = [round(memory(one), 1) for one in children(process.pid)]
        finally:
            process.terminate()
            process.wait()
    about = {
        "clients": bench.clients,
        "jobs": bench.jobs,
        "seconds": bench.seconds,
        "slow readers": len(range(0, bench.clients, 2)),
    }
    told = {**about, **found, "machine": machine()}
    print(json.dumps(told, indent=1))
    bench.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Bench))
