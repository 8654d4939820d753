"""The terminal block of a run, and the outcome that the store keeps with it."""

from streamserve.errors import Cancelled, RunLost, ServeError
from streamserve.stores import Outcome, Status
from streamserve.wire.blocks import end_block, error_block


def terminal(seq: int, run_id: str, error: ServeError | None, output: bytes | None = None) -> tuple[bytes, Outcome]:
    """Return a run's terminal block and outcome.

    Args:
        error: the error that ended the run; None: the run is done.
        output: the output as JSON, if it cannot be merged from the blocks. Default: None.
    """
    if error is None:
        return end_block(seq), Outcome("done", output=output)
    body = error.event(run_id)
    return error_block(seq, body), Outcome(_status_of(error), body)


def _status_of(error: ServeError) -> Status:
    if isinstance(error, Cancelled):
        return "cancelled"
    return "lost" if isinstance(error, RunLost) else "error"
