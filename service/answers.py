"""Errors as HTTP answers: one table, one envelope. Nothing else here knows a status code."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

import errors
from errors import SamevoiceError

NOBODY = 499  # the status of an answer that nobody is there to read
STATUS: dict[type[SamevoiceError], int] = {
    errors.SamevoiceError: 500,
    errors.Refused: 422,
    errors.RequestRefused: 422,
    errors.Malformed: 400,
    errors.InvalidField: 422,
    errors.PromptRefused: 422,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.UnknownAdapter: 404,
    errors.AdapterRefused: 409,
    errors.GenerationConflict: 412,
    errors.TooLarge: 413,
    errors.NotJson: 415,
    errors.Busy: 429,
    errors.NotReady: 503,
    errors.DeadlinePassed: 504,
}


def status_of(error: SamevoiceError) -> int:
    """The status of the nearest class in the table."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def envelope(code: str, message: str, details: list[str] | None = None) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "details": details or []}}


def as_event(name: str, data: Any) -> bytes:
    """One server-sent event."""
    return f"event: {name}\ndata: {_json(data)}\n\n".encode()


def as_data(data: Any) -> bytes:
    """One server-sent event without a name, as OpenAI's clients read them."""
    return f"data: {_json(data)}\n\n".encode()


def _json(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class UnicodeJSONResponse(JSONResponse):
    """JSON in UTF-8, written out."""

    def render(self, content: Any) -> bytes:
        return _json(content).encode()


def answer(error: SamevoiceError) -> UnicodeJSONResponse:
    """The response for *error*."""
    status = status_of(error)
    headers: Mapping[str, str] = {"Retry-After": "1"} if status in (429, 503) else {}
    if status == 401:
        headers = {"WWW-Authenticate": "Bearer"}
    return UnicodeJSONResponse(envelope(error.code, error.message, error.details), status, dict(headers))
