"""Requests that are read strictly: what is unknown is an error that names the nearest, in one shape for all routes.

{"error": {"message": "...", "type": "invalid_request_error", "param": "stepz", "code": null}}
"""

import base64
import binascii
import json
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, model_validator
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from reverie.errors import UserError, nearest
from reverie.studio.queue import Full, Over, Unknown

LONGEST = 2000
"""Characters of a message."""
T = TypeVar("T")
KINDS = ((Unknown, 404), (Over, 409), (Full, 503), (UserError, 400))
Answer = Callable[[Request, Exception], Awaitable[Response]]


class Strict(BaseModel):
    """A body of which every field is known."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        for name in map(plain, given if isinstance(given, dict) else ()):
            if name not in cls.model_fields:
                raise ValueError(f"there is no field '{name:.80}'.{nearest(name[:200], cls.model_fields)}")
        return given


def failed(message: str, status: int, param: str | None = None) -> JSONResponse:
    """The answer of one that is refused."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse(plain({"error": {"message": message[:LONGEST], "type": kind, "param": param, "code": None}}), status)


def plain(told: T) -> T:
    """JSON that came from files or requests, as it can be answered: halves of characters become `?`, NaN and infinity null."""
    text = json.dumps(told, ensure_ascii=False).encode("utf-8", "replace")
    made: T = json.loads(text, parse_constant=lambda name: None)
    return made


async def of_user(request: Request, error: Exception) -> Response:
    """What is a person's to mend."""
    return failed(str(error), next(status for kind, status in KINDS if isinstance(error, kind)))


async def of_form(request: Request, error: Exception) -> Response:
    """What does not have the form that is asked for; what was sent is not repeated."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    said = str(first["msg"]).removeprefix("Value error, ")
    return failed(f"{place}: {said}" if place else said, 400, place or None)


async def of_http(request: Request, error: Exception) -> Response:
    """No such route, or not by this method."""
    assert isinstance(error, HTTPException)
    return failed(str(error.detail), error.status_code)


async def of_disk(request: Request, error: Exception) -> Response:
    """The queue cannot be read or written now: no room, or a lock that is held too long."""
    return failed(f"the queue cannot be used ({error}): make room on its disk, and ask again", 503)


HANDLERS: dict[Any, Answer] = {
    sqlite3.OperationalError: of_disk,
    UserError: of_user,
    RequestValidationError: of_form,
    HTTPException: of_http,
}


def picture(text: str, what: str) -> bytes:
    """The bytes of a picture as base64, or as a data: URL; UserError for an address, which the studio never fetches."""
    if "://" in text[:40] or text.startswith("//"):
        raise UserError(f"{what} is an address: send the picture itself, as base64; the studio fetches nothing")
    rest = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode(rest, validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"{what} is no base64: send a PNG, JPEG or WebP as base64") from None
