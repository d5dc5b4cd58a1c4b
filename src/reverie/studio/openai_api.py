"""OpenAI's routes of pictures, for programs that speak them: one job each, which the answer waits for.

Fields that say nothing here (quality, background, moderation, user) are taken where they ask for nothing; what is ours beside them
are `style`, `negative_prompt`, `num_inference_steps`, `guidance_scale` and `seed`, as other servers of open models have them.
"""

import asyncio
import base64
import io
import json
import random
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse, Response, StreamingResponse

from reverie.errors import UserError, nearest
from reverie.studio.hands import Hands
from reverie.studio.jobs_api import Client, Working
from reverie.studio.queue import DONE, OVER, Job
from reverie.studio.strict import Strict

router = APIRouter(prefix="/v1/images")
Format = Literal["png", "jpeg", "webp"]


class Generation(Strict):
    """POST /v1/images/generations."""

    prompt: Annotated[str, Field(max_length=32_000)]
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=10)] | None = 1
    size: str | None = "auto"
    quality: Literal["auto", "standard", "hd", "low", "medium", "high"] | None = None
    response_format: Literal["url", "b64_json"] | None = None
    output_format: Format | None = "png"
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = 100
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto", "low"] | None = None
    stream: bool | None = False
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = 0
    style: str | None = None
    user: str | None = None
    negative_prompt: str | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None


class Edit(Generation):
    """POST /v1/images/edits, whose pictures are parts of a form."""

    input_fidelity: Literal["low", "high"] | None = None
    strength: float | None = None


def wish(asked: Generation) -> dict[str, Any]:
    """The same as a job; a seed is drawn where none is given, so that the same words make another picture."""
    seed = random.SystemRandom().randrange(2**31) if asked.seed is None else asked.seed
    settings: dict[str, Any] = {"count": asked.n or 1, "seed": seed}
    own = (("style", asked.style), ("negative", asked.negative_prompt), ("steps", asked.num_inference_steps))
    settings |= {name: value for name, value in (*own, ("guidance", asked.guidance_scale)) if value is not None}
    if asked.size not in (None, "auto"):
        settings |= size(str(asked.size))
    return {"prompt": asked.prompt, "settings": settings} | ({"model": asked.model} if asked.model else {})


def size(said: str) -> dict[str, int]:
    """ "512x768", width first."""
    width, _, height = said.partition("x")
    if not (width.isascii() and width.isdecimal() and height.isascii() and height.isdecimal() and len(said) < 12):
        raise UserError(f"size is {said!r:.40}; write it as 512x768, width first, or auto")
    return {"width": int(width), "height": int(height)}


@router.post("/generations", response_model=None)
async def generations(asked: Generation, request: Request, working: Working, client: Client = "") -> Response:
    """Pictures from words."""
    return await _answered(asked, wish(asked), request, working, client)


@router.post("/edits", response_model=None)
async def edits(request: Request, working: Working, client: Client = "") -> Response:
    """A picture changed; with a mask, what is transparent in it is drawn anew."""
    async with request.form(max_files=3, max_fields=40) as form:
        files = {name: value for name, value in form.multi_items() if isinstance(value, UploadFile)}
        for name in files:
            if name not in ("image", "image[]", "mask"):
                raise UserError(f"there is no file '{name:.80}'.{nearest(name[:200], ('image', 'mask'))}")
        sent = {name: await file.read() for name, file in files.items()}
        fields = {name: value for name, value in form.items() if not isinstance(value, UploadFile)}
    asked = _edit(fields)
    image = sent.get("image", sent.get("image[]"))
    if image is None or {"image", "image[]"} <= sent.keys():
        raise UserError("send one picture, as the file `image`")
    card: dict[str, Any] = {"name": "edit", "image": await asyncio.to_thread(working.library.keep, image)}
    if "mask" in sent:
        hole = await asyncio.to_thread(transparent, sent["mask"])
        card |= {"name": "inpaint", "mask": await asyncio.to_thread(working.library.keep, hole)}
    if asked.strength is not None:
        card["strength"] = asked.strength
    return await _answered(asked, wish(asked) | {"tasks": [card]}, request, working, client)


def _edit(fields: dict[str, Any]) -> Edit:
    """The fields of a form, which are text, as what they mean."""
    from pydantic import ValidationError

    try:
        return Edit.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place, said = ".".join(map(str, first["loc"])), str(first["msg"]).removeprefix("Value error, ")
        raise UserError(f"{place}: {said}" if place else said) from None


def transparent(data: bytes) -> bytes:
    """A mask whose white is what is transparent here, as PNG; one without transparency is taken as white already."""
    from PIL import Image

    from reverie.data.picture_file import check_size

    try:
        with Image.open(io.BytesIO(data)) as image:
            check_size(image, "the mask")
            if not image.has_transparency_data:
                return data
            hole = image.convert("RGBA").getchannel("A").point(lambda level: 255 - level)
    except UserError:
        raise
    except Exception as error:  # a decoder may raise anything on garbage
        raise UserError(f"the mask cannot be decoded ({type(error).__name__})") from None
    out = io.BytesIO()
    hole.save(out, "PNG")
    return out.getvalue()


async def _answered(asked: Generation, job: dict[str, Any], request: Request, working: Hands, client: str) -> Response:
    if asked.stream and asked.n not in (None, 1):
        raise UserError("a stream is of one picture: leave out n")
    made = await working.submit(job, "draw", client)
    if asked.stream:
        kind = "image_edit" if isinstance(asked, Edit) else "image_generation"
        return StreamingResponse(_streamed(asked, made, working, kind), media_type="text/event-stream")
    done = await working.finished(made.id, request.is_disconnected)
    if done.state != DONE:
        raise UserError(done.error or f"the job was {done.state}")
    pictures = [await asyncio.to_thread(_shown, asked, working, name, str(request.base_url)) for name in done.result["pictures"]]
    data = [{"revised_prompt": None} | one for one in pictures]
    return JSONResponse({"created": int(done.made), "data": data, "usage": None, **_about(asked, working, done)})


def _about(asked: Generation, working: Hands, job: Job) -> dict[str, Any]:
    from PIL import Image

    with Image.open(working.library.picture(job.result["pictures"][0])) as image:
        return {"output_format": asked.output_format or "png", "size": f"{image.width}x{image.height}"}


def _shown(asked: Generation, working: Hands, name: str, base: str) -> dict[str, Any]:
    if asked.response_format == "url":
        return {"url": f"{base}v1/pictures/{name}"}
    return {"b64_json": encoded(working.library.picture(name).read_bytes(), asked.output_format, asked.output_compression)}


def encoded(png: bytes, form: str | None, quality: int | None) -> str:
    """base64 of a picture; a PNG is that of the gallery, with its settings."""
    if form in (None, "png"):
        return base64.b64encode(png).decode()
    from PIL import Image

    out = io.BytesIO()
    Image.open(io.BytesIO(png)).save(out, "JPEG" if form == "jpeg" else "WEBP", quality=100 if quality is None else quality)
    return base64.b64encode(out.getvalue()).decode()


async def _streamed(asked: Generation, job: Job, working: Hands, kind: str) -> AsyncIterator[str]:
    """Partial pictures at even shares of the steps, then the whole one."""
    partial, told = asked.partial_images or 0, 0
    try:
        async for found, event in working.changes(job.id):
            if found is None or found.state in OVER:
                continue
            share = event.get("step", 0) / max(event.get("steps", 1), 1)
            if told < partial and share * (partial + 1) >= told + 1:
                preview = await asyncio.to_thread(working.library.preview, job.id, 0)
                said = {"b64_json": encoded(preview, asked.output_format, asked.output_compression), "partial_image_index": told}
                told += 1
                yield _event(f"{kind}.partial_image", {**said, "created_at": int(job.made)})
    finally:
        await working.leave(job.id)
    done = await working.finished(job.id)
    if done.state != DONE:
        yield f"event: error\ndata: {json.dumps({'error': {'message': done.error or done.state, 'type': 'server_error'}})}\n\n"
        return
    inside = asked.model_copy(update={"response_format": "b64_json"})
    whole = await asyncio.to_thread(_shown, inside, working, done.result["pictures"][0], "")
    yield _event(f"{kind}.completed", {**whole, **_about(asked, working, done), "created_at": int(done.made), "usage": None})


def _event(name: str, said: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps({'type': name, **said})}\n\n"
