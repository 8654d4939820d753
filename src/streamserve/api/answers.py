"""The JSON answer for an error."""

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from streamserve.errors import Internal, InvalidInput, ServeError, StoreUnavailable, Unauthenticated
from streamserve.errors.places import MAX_PLACES, entry
from streamserve.stores import StoreDown

logger = logging.getLogger(__name__)

# The first part of the places in FastAPI's own errors.
REQUEST_PARTS = {"body", "path", "query", "header", "cookie"}


def answer(error: ServeError, run_id: str | None = None) -> JSONResponse:
    """Return the JSON answer for an error."""
    headers = {**error.answer_headers, "Run-Id": run_id} if run_id else error.answer_headers
    try:
        return JSONResponse(error.body(run_id), status_code=error.status, headers=headers)
    except BaseException:  # a chain may raise an error with any detail and headers, whose own code may exit
        logger.exception("the error of a call has no JSON form", extra={"run_id": run_id})
        return answer(Internal(), run_id)


def answer_of(request: Request, error: ServeError | StoreDown) -> Response:
    """Return the answer for an error; raise one that the application has a page for."""
    if isinstance(error, Unauthenticated) and Unauthenticated in request.app.exception_handlers:
        raise error
    return answer(error if isinstance(error, ServeError) else StoreUnavailable())


def places_of(error: RequestValidationError) -> InvalidInput:
    """Return FastAPI's error as ours, with the place of each invalid value in the request."""
    return InvalidInput([_place(item) for item in error.errors()[:MAX_PLACES]])


def _place(item: Any) -> dict[str, Any]:
    if isinstance(item, dict):
        place = tuple(_from_request(item.get("loc", ())))
        return entry(place, item.get("msg", ""), item.get("type", "value_error"))
    return {"loc": ["body"], "msg": str(item), "type": "value_error"}


def _from_request(place: Sequence[Any]) -> list[Any]:
    # A config hash, and the fields beside an input, are validated alone: their places have no beginning.
    if place[:1] == ("configurable",):
        return ["path", "config_hash", *place]
    return [*place] if place and place[0] in REQUEST_PARTS else ["body", *place]
