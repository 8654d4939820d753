"""The JSON answer for an error."""

import logging

from fastapi.responses import JSONResponse

from streamserve.errors import Internal, ServeError

logger = logging.getLogger(__name__)


def answer(error: ServeError, run_id: str | None = None) -> JSONResponse:
    """Return the JSON answer for an error."""
    headers = {**error.answer_headers, "Run-Id": run_id} if run_id else error.answer_headers
    try:
        return JSONResponse(error.body(run_id), status_code=error.status, headers=headers)
    except BaseException:  # a chain may raise an error with any detail and headers, whose own code may exit
        logger.exception("the error of a call has no JSON form", extra={"run_id": run_id})
        return answer(Internal(), run_id)
