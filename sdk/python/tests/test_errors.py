"""The tree of errors is drawn in its docstring and fits the handlers that callers already have."""

import copy
import inspect
import pickle

import httpx
import pytest
import streamserve_sdk
from streamserve_sdk import errors

ALL = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.StreamServeError)]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_is_exported_and_drawn_in_the_tree(kind):
    assert getattr(streamserve_sdk, kind.__name__) is kind
    assert kind.__name__ in streamserve_sdk.__all__
    assert kind.__name__ in errors.__doc__


@pytest.mark.parametrize(
    "kind", [kind for kind in ALL if kind is not errors.StreamServeError], ids=lambda kind: kind.__name__
)
def test_every_error_is_one_that_callers_of_langserve_catch(kind):
    assert issubclass(kind, httpx.HTTPStatusError) != issubclass(kind, httpx.TransportError)


def test_every_code_of_the_protocol_has_its_class():
    assert set(errors.BY_CODE) >= {
        "cancelled", "timeout", "run_lost", "shutting_down", "log_full", "upstream_rate_limited", "upstream",
        "upstream_truncated", "invalid_output", "internal",
    }  # fmt: skip


def test_public_names_come_through_all():
    public = {name for name, value in vars(streamserve_sdk).items() if inspect.isclass(value)}
    assert public == set(streamserve_sdk.__all__)


def made(kind):
    position = errors.Position("r1", 7)
    if issubclass(kind, errors.ServerError):
        request = httpx.Request("POST", "http://h/joke/invoke")
        response = httpx.Response(409, json={"holder": "r0"}, request=request)
        return kind("a text", request=request, response=response, code="other", retryable=True, position=position)
    return kind("a text", position=position) if issubclass(kind, errors.ConnectionFailed) else kind("a text")


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, *(
    lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
)])  # fmt: skip
@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_an_error_is_the_same_after_pickling_and_copying(kind, again):
    error = made(kind)
    error.add_note("a note")
    other = again(error)
    assert type(other) is kind
    for name in ("args", "run_id", "last_id", "code", "retryable", "__notes__"):
        assert getattr(other, name) == getattr(error, name)
    if isinstance(error, errors.ServerError):
        assert (other.response.status_code, other.response.json()) == (409, {"holder": "r0"})
        assert (other.request.method, other.request.url) == (error.request.method, error.request.url)
    if kind is errors.ThreadBusy:
        assert other.holder == "r0"
