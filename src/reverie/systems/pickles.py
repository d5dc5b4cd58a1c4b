"""Pickles of others' weights, which may run anything when they are opened: refused, or read where they can do no harm.

Where a user allows it, a second process opens the pickle: it accepts tensors and plain containers only (torch's `weights_only`),
may not open a socket, start a program or write anything but its answer, has bounded memory, and hands over a safetensors file.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from torch import Tensor

from reverie.errors import UserError
from reverie.files import load_sound

ENDINGS = (".bin", ".pt", ".ckpt", ".pth")
SECONDS = 600
CHILD = """
import ctypes, os, resource, sys
source, answer, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
import torch
from safetensors.torch import save_file
ctypes.CDLL(None).unshare(0x10000000 | 0x40000000)  # a user and a network of its own, where the system grants them
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
FORBIDDEN = ("socket.", "subprocess.", "os.exec", "os.posix_spawn", "os.fork", "os.system", "ctypes.", "shutil.", "pty.")
def watch(event, arguments):
    if event.startswith(FORBIDDEN):
        raise RuntimeError(f"the file asked for {event}")
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR) and arguments[0] != answer:
        raise RuntimeError(f"the file asked to write {arguments[0]}")
sys.addaudithook(watch)
held = torch.load(source, map_location="cpu", weights_only=True)
for inner in ("state_dict", "params_ema", "params", "model"):
    if isinstance(held, dict) and isinstance(held.get(inner), dict):
        held = held[inner]
tensors = {str(k): v.detach().contiguous().clone() for k, v in held.items() if isinstance(v, torch.Tensor)}
if not tensors:
    raise RuntimeError("it holds no tensors")
save_file(tensors, answer)
"""


def is_pickle(path: Path) -> bool:
    """Whether a file is one by its name."""
    return path.suffix in ENDINGS and path.is_file()


def refuse_unless(allowed: bool, path: Path) -> None:
    """UserError that says why, where pickles are not allowed."""
    if not allowed:
        raise UserError(
            f"{path} is a pickle, which may run anything when it is opened: get the model as safetensors, or let its tensors be "
            "read in a process of their own with `reverie convert --allow-pickle`"
        )


def tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickle; UserError where there is anything else in it that is needed to open it."""
    limit = 4 * path.stat().st_size + (8 << 30)
    with tempfile.TemporaryDirectory() as place:
        answer = Path(place) / "tensors.safetensors"
        words = [sys.executable, "-I", "-c", CHILD, str(path.resolve()), str(answer), str(limit)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, env=_plain(), check=False)
        except subprocess.TimeoutExpired:
            raise UserError(f"{path} was not read within {SECONDS} seconds: get the model as safetensors") from None
        if done.returncode:
            said = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:200]
            raise UserError(f"{path} is refused: {said}; get the model as safetensors")
        return {k: v.clone() for k, v in load_sound(answer).items()}  # off the file, which goes now


def _plain() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k in ("PATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR")}
