"""The tree of errors is drawn in its docstring and fits the handlers that callers already have."""

import inspect

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
