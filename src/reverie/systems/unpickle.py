"""Takes the tensors out of a pickle, in a process of its own: `python -I unpickle.py PICKLE ANSWER BYTES`.

It accepts tensors and plain containers only (torch's `weights_only`), may not open a socket, start a program or write anything but
its answer (a safetensors file), and has so many bytes of memory. Where the system grants it, it also has no network at all, and
says so; where not, the watch over what Python does is all that keeps it from one.
"""

import ctypes
import os
import re
import resource
import sys
from collections.abc import Callable
from typing import Any

USER, NETWORK = 0x10000000, 0x40000000
"""CLONE_NEWUSER and CLONE_NEWNET of Linux."""
ALONE = "no network"
FORBIDDEN = ("socket.", "subprocess.", "os.exec", "os.posix_spawn", "os.fork", "os.system", "ctypes.", "shutil.", "pty.")
INNER = ("state_dict", "params_ema", "params", "model", "string_to_param")
"""Where files keep the tensors besides what was kept of the training."""


def alone() -> bool:
    """Leaves the network; whether that was granted. It must be asked before libraries make threads, with which it is not."""
    unshare: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "unshare", None)
    return unshare is not None and any(unshare(what) == 0 for what in (USER | NETWORK, NETWORK))


def watched(answer: str) -> None:
    """From now on what is forbidden is a RuntimeError."""

    def watch(event: str, arguments: Any) -> None:
        if event.startswith(FORBIDDEN):
            raise RuntimeError(f"the file asked for {event}")
        if (
            event == "open"
            and isinstance(arguments[2], int)
            and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            and arguments[0] != answer
        ):
            raise RuntimeError(f"the file asked to write {arguments[0]}")

    sys.addaudithook(watch)


def main(source: str, answer: str, limit: int) -> None:
    """The whole of it; leaves with a line on stderr where the file is refused."""
    print(ALONE if alone() else "watched", flush=True)
    import torch
    from safetensors.torch import save_file

    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    watched(answer)
    try:
        held = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever it is that the file holds besides tensors
        asked, why = re.search(r"GLOBAL ([\w.]+)", str(error)), re.search(r"WeightsUnpickler error:\s*(\S.*)", str(error))
        sys.exit(
            f"it asks for {asked[1]}, which is no tensor" if asked else " ".join((why[1] if why else str(error)).split())[:200]
        )
    for inner in INNER:
        if isinstance(held, dict) and isinstance(held.get(inner), dict):
            held = held[inner]
    found = held.items() if isinstance(held, dict) else ()
    tensors = {str(k): v.detach().contiguous().clone() for k, v in found if isinstance(v, torch.Tensor)}
    if not tensors:
        sys.exit("it holds no tensors")
    save_file(tensors, answer)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
