"""The URLs of endpoints and runs, and the rule of origins."""

import pytest
from streamserve_sdk.transport.links import endpoint, run_url, runs_beside, stream_url


@pytest.mark.parametrize(
    ("url", "stream", "runs"),
    [
        ("http://h/joke", "http://h/joke/stream", "http://h/runs"),
        ("http://h/joke/", "http://h/joke/stream", "http://h/runs"),
        ("https://h:8/api/v1/joke", "https://h:8/api/v1/joke/stream", "https://h:8/api/v1/runs"),
        ("http://h", "http://h/stream", "http://h/runs"),
        ("http://h/a%2Fb", "http://h/a%2Fb/stream", "http://h/runs"),
    ],
)
def test_endpoints_are_below_the_chain_and_runs_beside_it(url, stream, runs):
    assert endpoint(url, "stream") == stream
    assert runs_beside(url) == runs


def test_a_run_id_is_quoted():
    assert run_url("http://h/runs/", "../x?y", "/cancel") == "http://h/runs/..%2Fx%3Fy/cancel"


@pytest.mark.parametrize(
    "location",
    [
        "/runs/r1/stream",
        "http://h/runs/r1/stream",
        "http://h:80/runs/r1/stream",
        "//evil/runs/r1/stream",
        "https://h/runs/r1/stream",
        "http://h:81/runs/r1/stream",
        "http://h@evil/runs/r1/stream",
        "javascript:alert(1)",
        "http://[",
        None,
    ],
)
def test_a_location_never_leads_to_another_origin(location):
    found = stream_url("http://h/joke/stream", location, "http://h/runs", "r1")
    assert found.replace(":80/", "/") == "http://h/runs/r1/stream"
