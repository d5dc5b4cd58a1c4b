"""Pickles of others' weights, which may run anything when they are opened: refused, or read where they can do no harm.

Where a user allows it, a second process opens the pickle, and hands over a safetensors file: what it may do is in `unpickle`.
"""

import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from torch import Tensor

from reverie.errors import UserError
from reverie.files import load_sound
from reverie.systems.unpickle import ALONE

ENDINGS = (".bin", ".pt", ".ckpt", ".pth")
SECONDS = 600
CHILD = Path(__file__).with_name("unpickle.py")
LOG = logging.getLogger("reverie")


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
        words = [sys.executable, "-I", "-W", "ignore", str(CHILD), str(path.resolve()), str(answer), str(limit)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, env=_plain(), check=False)
        except subprocess.TimeoutExpired:
            raise UserError(f"{path} was not read within {SECONDS} seconds: get the model as safetensors") from None
        if done.returncode:
            said = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:200]
            raise UserError(f"{path} is refused: {said}; get the model as safetensors")
        if ALONE not in done.stdout:
            LOG.debug("this system lets no process leave the network: %s was read under the watch of Python alone", path)
        return {k: v.clone() for k, v in load_sound(answer).items()}  # off the file, which goes now


def _plain() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k in ("PATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR")}
