"""The JSON answer for an error."""

from fastapi.responses import JSONResponse

from streamserve.errors import ServeError


def answer(error: ServeError, run_id: str | None = None) -> JSONResponse:
    """Return the JSON answer for an error."""
    headers = {**error.answer_headers, "Run-Id": run_id} if run_id else error.answer_headers
    return JSONResponse(error.body(run_id), status_code=error.status, headers=headers)
