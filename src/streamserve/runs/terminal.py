"""The terminal block of a run, and the outcome that the store keeps with it."""

import logging
from typing import Any, cast

import orjson

from streamserve.errors import Cancelled, Internal, RunLost, ServeError
from streamserve.stores import Outcome, Status
from streamserve.wire.blocks import end_block, error_block
from streamserve.wire.serializer import to_line

logger = logging.getLogger(__name__)


def terminal(seq: int, run_id: str, error: ServeError | None, output: bytes | None = None) -> tuple[bytes, Outcome]:
    """Return a run's terminal block and outcome.

    Args:
        error: the error that ended the run; None: the run is done.
        output: the output as JSON, if it cannot be merged from the blocks. Default: None.
    """
    if error is None:
        return end_block(seq), Outcome("done", output=output)
    try:
        body = orjson.loads(to_line(error.event(run_id)))
    except BaseException:  # a chain may raise an error with any detail, whose own code may exit
        logger.exception("the error of a run has no JSON form", extra={"run_id": run_id})
        return terminal(seq, run_id, Internal())
    return error_block(seq, body), Outcome(_status_of(error), {**body, **_beside(error)})


def _beside(error: ServeError) -> dict[str, Any]:
    """Return what an answer has beside the fields of the block: a detail that is no text, and headers."""
    found = {} if isinstance(error.detail, str) else {"detail": error.detail}
    if error.headers:
        found["headers"] = dict(error.headers)
    try:
        return cast(dict[str, Any], orjson.loads(to_line(found)))
    except BaseException:  # a detail of a chain's own exception without a JSON form; the block has it as text
        return {}


def _status_of(error: ServeError) -> Status:
    if isinstance(error, Cancelled):
        return "cancelled"
    return "lost" if isinstance(error, RunLost) else "error"
