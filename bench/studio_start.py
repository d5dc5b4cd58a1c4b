"""How soon the studio is there: its first answer, its first picture after a page is opened, and what it holds in memory at rest.

    python bench/studio_start.py

Each run is a new server with a new folder. `answer`: from the command to the page's bytes; `page`: from the command to the models
and choices that the page needs to be used; `picture`: from the page's bytes to one picture of the shipped model with its own
settings. Files are in the system's cache after the first run, which is left out.
"""

import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import tyro
from studio_server import begun, children, free_port, machine, memory


@dataclass(frozen=True)
class Bench:
    runs: int = 5
    rest: float = 5.0
    """Seconds at rest before memory is read."""
    out: Path = Path("bench/results/studio-start.json")


def once(folder: Path, rest: float) -> dict[str, float]:
    begin = time.perf_counter()
    process, url = begun(folder, free_port())
    with httpx.Client(base_url=url, timeout=60) as http:
        http.get("/").raise_for_status()
        opened = time.perf_counter()
        for path in ("/v1/models", "/v1/choices"):
            http.get(path).raise_for_status()
        usable = time.perf_counter()
        time.sleep(rest)
        told = {"server MB": memory(process.pid), "worker MB": sum(map(memory, children(process.pid)))}
    process.terminate()
    process.wait()
    process.stdout.close()
    return {"answer": opened - begin, "page": usable - begin, **told}


def picture(folder: Path) -> dict[str, float]:
    """From the page to a picture, of a studio that was not there before."""
    process, url = begun(folder, free_port())
    with httpx.Client(base_url=url, timeout=60) as http:
        http.get("/").raise_for_status()
        opened = time.perf_counter()
        job = http.post("/v1/jobs", json={"prompt": "a bald man"}).json()["id"]
        with http.stream("GET", f"/v1/jobs/{job}/events") as stream:
            states = [json.loads(line[6:])["state"] for line in stream.iter_lines() if line.startswith("data: ")]
        assert states[-1] == "done"
        told = {"picture": time.perf_counter() - opened}
        told["worker MB, model open"] = sum(map(memory, children(process.pid)))
    process.terminate()
    process.wait()
    process.stdout.close()
    return told


def main(bench: Bench) -> None:
    found = []
    for k in range(bench.runs + 1):
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
            found.append(once(Path(one), bench.rest) | picture(Path(two)))
            print(k, found[-1], flush=True)
    rows = {name: [round(run[name], 2) for run in found[1:]] for name in found[0]}
    told = {"runs": bench.runs, "medians": {name: statistics.median(row) for name, row in rows.items()}, "all": rows}
    told |= {"machine": machine()}
    bench.out.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told["medians"]))


if __name__ == "__main__":
    main(tyro.cli(Bench))
