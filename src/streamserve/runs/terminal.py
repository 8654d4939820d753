"""The terminal block of a run, and the outcome that the store keeps with it."""

import logging

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
    except Exception:  # a chain may raise a ServeError with any detail
        logger.exception("the error of a run has no JSON form", extra={"run_id": run_id})
        return terminal(seq, run_id, Internal())
    # The block has the places of invalid input as one text.
    kept = body if isinstance(error.detail, str) else {**body, "detail": error.detail}
    return error_block(seq, body), Outcome(_status_of(error), kept)


def _status_of(error: ServeError) -> Status:
    if isinstance(error, Cancelled):
        return "cancelled"
    return "lost" if isinstance(error, RunLost) else "error"
