"""`reverie studio`: a page and three HTTP APIs on this machine, and a queue that never loses a picture."""

import os
import secrets
import socket
import threading
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reverie.cli.parse import parse
from reverie.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
TOKEN = "REVERIE_TOKEN"
KEPT_OPEN = 75
"""Seconds that a connection stays open between requests: longer than programs wait between two questions."""


@dataclass(frozen=True)
class Studio:
    """A page in which pictures are made, and the APIs of OpenAI, A1111 and our own, on one server."""

    port: int = 7860
    host: str = "127.0.0.1"
    """Another address than this machine's own asks everybody for a token: that in REVERIE_TOKEN, or a new one that is printed."""
    folder: str = "~/reverie"
    """Where pictures, the queue, and your own models, loras and controls lie."""
    workers: int = 1
    """Processes that draw: one for each device."""
    no_browser: bool = False
    """Opens no page."""
    resume: bool = False
    """Jobs that were interrupted go on at once; otherwise when you say so."""


def main(arguments: Sequence[str]) -> None:
    """Serves until it is stopped."""
    asked = parse(Studio, arguments, "reverie studio")
    if not 1 <= asked.port <= 65535:
        raise UserError(f"--port is {asked.port}; give one from 1 to 65535")
    if not 1 <= asked.workers <= 64:
        raise UserError(f"--workers is {asked.workers}; give 1 to 64")
    try:
        import uvicorn

        from reverie.studio.guard import own_hosts
        from reverie.studio.library import Library
        from reverie.studio.server import studio
    except ModuleNotFoundError as error:
        raise UserError(f"the studio needs {error.name}: pip install 'reverie[studio]'") from None
    local = asked.host in LOOPBACK
    token = os.environ.get(TOKEN, "") or ("" if local else secrets.token_urlsafe(24))
    hosts = own_hosts(asked.host, asked.port) if local else None
    app = studio(Library(Path(asked.folder)), hosts, token, asked.workers, asked.resume)
    shown = f"[{asked.host}]" if ":" in asked.host else asked.host
    address = f"http://{shown}:{asked.port}/" + (f"?token={token}" if token else "")
    config = uvicorn.Config(
        app, asked.host, asked.port, log_level="warning", access_log=False, server_header=False, timeout_keep_alive=KEPT_OPEN
    )
    server = uvicorn.Server(config)
    with _bound(asked) as place:
        print(f"reverie studio: {address}   (Ctrl-C ends it; a picture that is being drawn is kept at its last step)", flush=True)
        if not asked.no_browser:
            threading.Timer(0.5, webbrowser.open, (address,)).start()
        server.run([place])


def _bound(asked: Studio) -> socket.socket:
    """The place where it listens; UserError where another does."""
    try:
        family = socket.AF_INET6 if ":" in asked.host else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, or asyncio leaves Nagle's 40 ms on
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((asked.host, asked.port))
        made.listen(128)  # so that a page that is opened at once waits for its answer
        return made
    except OSError as error:
        raise UserError(f"cannot listen at {asked.host}:{asked.port}: {error.strerror}; choose another --port") from None
