"""Our own routes: jobs that are answered at once and done later, what they are made of, and what they made."""

import asyncio
import json
import pathlib
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Header, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import Field, ValidationError
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse

from reverie.errors import UserError
from reverie.studio.hands import Hands
from reverie.studio.queue import QUEUED, Job, Queue, Unknown
from reverie.studio.strict import Strict

BEAT = 15.0
"""Seconds after which a stream that has nothing to say says so, and notices that nobody listens."""
router = APIRouter(prefix="/v1")


def hands(request: Request) -> Hands:
    """The workers of this server."""
    found: Hands = request.app.state.hands
    return found


Working = Annotated[Hands, Depends(hands)]
Client = Annotated[str, Header(alias="X-Client", max_length=200)]


class Way(Strict):
    """How a job is done, whatever it asks for."""

    kind: str = "draw"
    priority: int = Field(0, ge=-100, le=100)


def told(job: Job, event: Mapping[str, Any], ahead: int | None = None) -> dict[str, Any]:
    """A job as it is answered."""
    base = f"/v1/jobs/{job.id}"
    own = {name: getattr(job, name) for name in ("id", "kind", "state", "stopping", "priority", "made", "begun", "ended", "error")}
    own |= {"asked": job.asked, "result": job.result, "poll_url": base, "events_url": f"{base}/events"}
    progress = {name: event[name] for name in ("step", "steps", "first", "total", "shown", "loss", "curve") if name in event}
    return own | {"progress": progress or None} | ({} if ahead is None else {"ahead": ahead})


@router.post("/jobs", status_code=202)
async def submit(
    asked: Annotated[dict[str, Any], Body()],
    working: Working,
    client: Client = "",
    key: Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)] = None,
) -> dict[str, Any]:
    """Takes a job, of which `kind` says what the other fields mean; what can be known to be wrong of it is said here."""
    try:
        way = Way.model_validate({name: asked[name] for name in Way.model_fields if name in asked})
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None
    wish = {name: value for name, value in asked.items() if name not in Way.model_fields}
    job = await working.submit(wish, way.kind, client, way.priority, key)
    return told(job, {}, await working.look(Queue.ahead, job.id))


@router.get("/jobs")
async def jobs(
    working: Working,
    state: Annotated[list[str], Query(max_length=6)] = [],  # noqa: B006  FastAPI copies it
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """The newest first."""
    found = await working.look(Queue.jobs, *state, limit=limit)
    return {"jobs": [told(job, working.latest.get(job.id, {})) for job in found]}


@router.get("/jobs/{id}")
async def job(id: str, working: Working) -> dict[str, Any]:
    """How it stands; 404 for one that is not known, which is never one that is done."""
    found, ahead = await working.look(_standing, id)
    return told(found, working.latest.get(id, {}), ahead)


def _standing(queue: Queue, id: str) -> tuple[Job, int | None]:
    found = queue.get(id)
    return found, queue.ahead(id) if found.state == QUEUED else None


@router.post("/jobs/{id}/cancel")
async def cancel(id: str, working: Working) -> dict[str, Any]:
    """Ends it, a running one within a step; 409 where it has ended."""
    return told(await working.cancel(id), {})


@router.post("/jobs/{id}/pause")
async def pause(id: str, working: Working) -> dict[str, Any]:
    """Interrupts it, until it is resumed; 409 where it neither waits nor runs."""
    found = await working.ask(Queue.pause, id)
    working.heard({"job": id, "state": found.state})
    return told(found, {})


@router.post("/jobs/{id}/resume", status_code=202)
async def resume(id: str, working: Working) -> dict[str, Any]:
    """Lets one go on that was interrupted; 409 where it was not."""
    found = await working.ask(Queue.resume, id)
    working.call()
    return told(found, {})


@router.get("/jobs/{id}/events")
async def events(id: str, working: Working) -> StreamingResponse:
    """Server-sent events: the job each time that something is new of it, until it is over."""
    await working.look(Queue.get, id)  # 404 before the stream begins
    return StreamingResponse(stream(working, id), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def stream(working: Hands, id: str) -> AsyncIterator[str]:
    """A line for each change; a slow reader misses what was between."""
    async for found, event in working.changes(id, BEAT):
        yield ": nothing new\n\n" if found is None else f"event: job\ndata: {json.dumps(told(found, event))}\n\n"


@router.get("/jobs/{id}/previews/{index}")
async def preview(id: str, index: Annotated[int, Path(ge=0, lt=100_000)], working: Working) -> Response:
    """The predicted clean picture at the last step of a job that runs."""
    await working.look(Queue.get, id)
    return Response(await asyncio.to_thread(working.library.preview, id, index), media_type="image/png")


@router.get("/jobs/{id}/results/{name}")
async def result(id: str, name: str, working: Working) -> FileResponse:
    """What a job made that is no picture of the gallery."""
    return FileResponse(working.library.result(id, name))


@router.post("/uploads", status_code=201)
async def upload(request: Request, working: Working) -> JSONResponse:
    """Takes a picture (the body of the request), and gives the name by which a task means it, and what it tells of its making."""
    data = await request.body()
    return JSONResponse(await asyncio.to_thread(_kept, working, data), 201)


def _kept(working: Hands, data: bytes) -> dict[str, Any]:
    from reverie.studio.told import said

    name = working.library.keep(data)
    return {"name": name, "url": f"/v1/pictures/{name}", "made": said(data)}


@router.get("/pictures")
async def pictures(
    working: Working, before: str = "", limit: Annotated[int, Query(ge=1, le=500)] = 60
) -> dict[str, list[dict[str, Any]]]:
    """What was made, the newest first; before: the name of one, whose elders are wanted."""
    found = await asyncio.to_thread(working.library.made, before, limit)
    return {"pictures": [{"name": name, "url": f"/v1/pictures/{name}"} for name in found]}


@router.get("/pictures/{name}")
async def picture(name: str, working: Working) -> FileResponse:
    """A picture that was made or sent, as PNG."""
    try:
        return _file(working.library.picture(name))
    except UserError as error:
        raise Unknown(str(error)) from None


@router.get("/pictures/{name}/made")
async def made(name: str, working: Working) -> dict[str, Any]:
    """What the picture tells of its making, as a job that makes it again."""
    from reverie.studio.told import said

    path = (await picture(name, working)).path
    return {"made": await asyncio.to_thread(lambda: said(pathlib.Path(path).read_bytes()))}


@router.get("/models")
async def models(working: Working) -> dict[str, Any]:
    """What can be drawn with: OpenAI's list, and of each what is known of it."""
    from reverie.studio.shelf import models as found

    return {"object": "list", "data": await asyncio.to_thread(found, working.library)}


@router.get("/models/{name}")
async def model(name: str, working: Working) -> dict[str, Any]:
    """One of them."""
    for one in (await models(working))["data"]:
        if one["id"] == name:
            return dict(one)
    raise Unknown(f"there is no model {name!r:.80}: GET /v1/models lists them")


@router.get("/loras")
async def loras(working: Working) -> dict[str, Any]:
    """Changes of models, and what is known of each."""
    from reverie.studio.shelf import loras as found

    return {"loras": await asyncio.to_thread(found, working.library)}


class Collected(Strict):
    """A picture that was sent, for an album, and what is said of it."""

    picture: str
    caption: str = Field("", max_length=4000)


class Collection(Strict):
    """Pictures for an album, which is made where it is missing."""

    name: str
    pictures: list[Collected] = Field(min_length=1, max_length=1000)


@router.get("/albums")
async def albums(working: Working) -> dict[str, Any]:
    """Sets of pictures that can be learnt."""
    found = await asyncio.to_thread(working.library.albums)
    return {"albums": [{"name": name, "pictures": count} for name, count in found.items()]}


@router.post("/albums", status_code=201)
async def collect(asked: Collection, working: Working) -> dict[str, Any]:
    """Puts pictures into one."""
    given = [(one.picture, one.caption) for one in asked.pictures]
    await asyncio.to_thread(working.library.collect, asked.name, given)
    return {"name": asked.name, "pictures": (await asyncio.to_thread(working.library.albums))[asked.name]}


@router.get("/choices")
async def choices(working: Working) -> dict[str, Any]:
    """What a page needs to offer: settings, solvers, tasks with their fields, LoRAs, controls."""
    from reverie.studio.shelf import choices as found

    return await asyncio.to_thread(found, working.library)


def _file(path: pathlib.Path) -> FileResponse:
    return FileResponse(path, media_type="image/png", headers={"Cache-Control": "private, max-age=60"})
