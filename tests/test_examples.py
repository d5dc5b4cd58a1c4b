"""The examples run, at toy size."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_ring():
    done = subprocess.run([sys.executable, str(EXAMPLES / "ring.py"), "200"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    radius = float(done.stdout.split()[1])
    assert 0.85 < radius < 1.15, done.stdout
