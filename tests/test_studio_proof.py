"""The benches of the studio, small: kills under load lose nothing, and many clients neither slow nor swell it.

`bench/studio_crash.py` and `bench/studio_load.py` are the same with 200 kills, and 100 clients and 10,000 jobs.
"""

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parent.parent / "bench"


def run(name, out, *options):
    command = [sys.executable, str(BENCH / name), "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text())


def test_kills_under_load_lose_nothing(tmp_path):
    told = run("studio_crash.py", tmp_path / "crash.json", "--kills", "5", "--clients", "3", "--longest", "0.5", "--seed", "1")
    assert [told[name] for name in ("lost", "doubled", "unreadable", "different", "strays", "left")] == [0] * 6
    assert told["jobs"] >= 9 and told["pictures"] >= 9 and told["kills"]["in hand"] >= 2


def test_many_clients_and_many_jobs(tmp_path):
    """Bounds are wide: machines that test are busy. They catch work that grows with the queue, and readers that are waited for."""
    told = run("studio_load.py", tmp_path / "load.json", "--clients", "20", "--jobs", "1000", "--seconds", "5", "--every", "0.5")
    memory, took = told["megabytes of the server"], told["milliseconds"]
    assert memory["end"] - memory["before"] < 40, memory
    assert took["GET /v1/jobs/ID"]["count"] > 100 and took["GET /v1/jobs/ID"]["p95"] < 500, took
    assert took["event loop"]["p95"] < 500, took
