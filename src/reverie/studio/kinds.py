"""What kinds of jobs there are, and what each is: a module that reads what is asked for, and does it.

A new kind is a line here and a module with `read` and `do`; queue, worker, events, cancelling and the API are the same for all.
"""

import importlib
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

from reverie.errors import UserError, nearest

if TYPE_CHECKING:
    from reverie.studio.library import Library
    from reverie.studio.queue import Job
    from reverie.studio.worker import Worker

KINDS = {
    "draw": "reverie.studio.draw",
    "learn": "reverie.studio.learn",
    "estimate": "reverie.studio.estimate",
}
"""Modules, opened when they are needed: they need torch, and the server is to be there before."""


_ONE = threading.Lock()


class Kind(Protocol):
    """A kind of job."""

    def read(self, asked: Mapping[str, Any], library: "Library", /) -> Any:
        """What is asked for; UserError for whatever can be known to be wrong before anything is opened."""

    def do(self, worker: "Worker", job: "Job", asked: Any, /) -> Mapping[str, Any]:
        """Does it, and gives the result as JSON; calls `worker.go_on` at each step. What it needs to go on is in `worker.work`."""


def kind(name: str) -> Kind:
    """UserError where there is none."""
    if name not in KINDS:
        raise UserError(f"there is no kind of job '{name:.80}'.{nearest(name[:200], KINDS)}")
    with _ONE:  # two threads that import modules of one circle each see the other's half made
        return cast(Kind, importlib.import_module(KINDS[name]))
