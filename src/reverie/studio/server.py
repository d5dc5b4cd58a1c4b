"""The server: the page, three HTTP APIs and the queue behind them, behind one guard.

studio(Library(Path("pictures")))    an ASGI application, for uvicorn
"""

import asyncio
import importlib
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import Depends, FastAPI, Request
from starlette.staticfiles import StaticFiles

from reverie.studio import a1111_api, jobs_api, openai_api
from reverie.studio.guard import Guard
from reverie.studio.hands import Hands
from reverie.studio.library import Library
from reverie.studio.strict import HANDLERS

PAGE = Path(__file__).parent / "page"


LATE = ("reverie.studio.asked", "reverie.studio.shelf", "reverie.studio.told")
"""Modules that need torch, which takes a second or two: the page is served before."""


def _ready() -> None:
    for name in LATE:
        importlib.import_module(name)


async def ready(request: Request) -> None:
    """Routes wait until all is imported: two threads that import modules of one circle each see the other's half made."""
    await asyncio.shield(request.app.state.ready)


def studio(library: Library, hosts: Collection[str] | None, token: str = "", workers: int = 1, resume: bool = False) -> Guard:
    """hosts, token: see `Guard`. resume: jobs that were interrupted go on at once."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        working = Hands(library, workers)
        app.state.hands = working
        await working.start(resume)
        app.state.ready = asyncio.create_task(asyncio.to_thread(_ready))
        try:
            yield
        finally:
            await app.state.ready
            await working.stop()

    app = FastAPI(title="reverie studio", lifespan=lifespan, docs_url=None, redoc_url=None)
    for kind, answer in HANDLERS.items():
        app.add_exception_handler(kind, answer)
    for api in (jobs_api, openai_api, a1111_api):
        app.include_router(api.router, dependencies=[Depends(ready)])
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return Guard(app, hosts, token)
