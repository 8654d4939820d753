"""Back-off and Retry-After."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamserve_sdk import RetryPolicy
from streamserve_sdk.transport import retry
from streamserve_sdk.transport.retry import retry_after


@given(st.integers(1, 40))
def test_the_pause_doubles_up_to_its_bound_with_full_jitter(attempt):
    assert 0 <= RetryPolicy(first=0.05, longest=5.0).backoff(attempt) <= min(5.0, 0.05 * 2 ** (attempt - 1))


def test_the_upper_bounds_of_the_pauses_double(monkeypatch):
    monkeypatch.setattr(retry.random, "uniform", lambda _low, high: high)
    policy = RetryPolicy(first=0.05, longest=0.3)
    assert [policy.backoff(attempt) for attempt in (1, 2, 3, 4, 40)] == [0.05, 0.1, 0.2, 0.3, 0.3]


def test_pauses_differ():
    assert len({RetryPolicy().backoff(8) for _ in range(20)}) > 1


def test_the_budget_bounds_the_attempts():
    policy = RetryPolicy(budget=2)
    assert policy.pause(2, 0.0) is not None
    assert policy.pause(3, 0.0) is None


def test_a_server_that_asks_for_more_time_gets_it():
    assert RetryPolicy().pause(1, 9.0) == 9.0
    policy = RetryPolicy(longest_retry_after=9.0)
    assert (policy.pause(1, 9.0), policy.pause(1, 9.1)) == (9.0, None)


@pytest.mark.parametrize(("value", "seconds"), [("7", 7.0), ("", 0.0), ("soon", 0.0), ("-5", 0.0), ("²", 0.0)])
def test_retry_after_in_seconds(value, seconds):
    assert retry_after({"retry-after": value}) == seconds


def test_retry_after_as_a_date():
    later = datetime.now(UTC) + timedelta(seconds=30)
    assert 25 < retry_after({"retry-after": format_datetime(later, usegmt=True)}) <= 30
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
