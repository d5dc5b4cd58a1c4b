"""A studio of its own for benches of the studio, and what every result says of the machine."""

import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fastapi
import torch
import uvicorn

import reverie


def begun(folder: Path, port: int, *options: str) -> tuple[subprocess.Popen, str]:
    """The process of a studio, once it listens, and its address."""
    command = [sys.executable, "-m", "reverie", "studio", "--no-browser", "--folder", str(folder), "--port", str(port), *options]
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    said = process.stdout.readline()
    if not (found := re.search(r"http://\S+", said)):
        raise SystemExit(f"the studio did not begin: see {folder / 'log'}")
    return process, found[0]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def memory(process: int) -> float:
    """MB that a process has in memory."""
    said = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", said)[1]) / 1024


def children(process: int) -> list[int]:
    """Processes that it began: the workers."""
    return [int(text) for text in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def machine() -> Mapping[str, Any]:
    """Where and with what it was measured."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "fastapi": fastapi.__version__}
    versions |= {"uvicorn": uvicorn.__version__, "reverie": reverie.__version__}
    return {"cores": len(os.sched_getaffinity(0)), "load": [round(load, 2) for load in os.getloadavg()], "versions": versions}
