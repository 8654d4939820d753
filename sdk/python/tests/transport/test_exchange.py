"""One request and its whole answer."""

from streamserve_sdk.transport.exchange import arguments
from streamserve_sdk.transport.wire import Request


def test_only_a_request_with_a_silence_has_its_own_time_limit():
    assert arguments(Request("GET", "http://h/runs/r1", silence=7.0))["timeout"] == 7.0
    assert "timeout" not in arguments(Request("GET", "http://h/runs/r1"))
