"""Terminal blocks, and the outcomes beside them."""

from __future__ import annotations

from typing import Any

import pytest

from streamserve.errors import Cancelled, Internal, RunLost, ServeError
from streamserve.runs.terminal import terminal
from streamserve.stores import Outcome


def test_a_run_that_is_done_keeps_its_output() -> None:
    assert terminal(3, "r", None, b"1") == (b"id: 3\nevent: end\ndata:\n\n", Outcome("done", output=b"1"))


@pytest.mark.parametrize(
    ("error", "status"), [(Cancelled(), "cancelled"), (RunLost(), "lost"), (Internal(), "error")], ids=str
)
def test_an_error_gives_its_run_its_status(error: ServeError, status: str) -> None:
    block, outcome = terminal(3, "r", error)
    assert block.startswith(b"id: 3\nevent: error\ndata: {")
    assert (outcome.status, outcome.error and outcome.error["code"]) == (status, error.code)


def beside(detail: Any, headers: Any = None) -> dict[str, Any]:
    """Return what an outcome has beside the fields of its block."""
    error = ServeError(detail)
    error.headers = headers or {}
    found = terminal(3, "r", error)[1].error or {}
    return {name: found[name] for name in ("detail", "headers") if name in found}


def test_an_outcome_has_details_and_headers_of_its_answer() -> None:
    found = [{"loc": ["name"], "msg": "missing", "type": "missing"}]
    assert beside(found, {"X-Tea": "green"}) == {"detail": found, "headers": {"X-Tea": "green"}}
    assert beside("a text") == {}


def test_an_answer_without_json_has_nothing_beside() -> None:
    assert beside("a text", {"X-Tea": object()}) == {}


def test_an_error_without_json_is_an_internal_one() -> None:
    block, outcome = terminal(3, "r", ServeError(object()))  # type: ignore[arg-type]
    assert (b'"code":"internal"' in block, outcome.status) == (True, "error")
