"""The bounds of resuming a broken stream: the number of attempts and the pauses between them."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# Attempts in a row without progress: with full jitter, about 25 s of trying.
RETRY_BUDGET = 10
FIRST_BACKOFF = 0.05
LONGEST_BACKOFF = 5.0
# Without a server, `stream` tells about as soon as `invoke`, which has one attempt.
CONNECTS = 2
# If a server asks for a longer pause than this, the caller gets the server's answer.
LONGEST_RETRY_AFTER = 60.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Bounds of reconnecting.

    Args:
        budget: attempts in a row without progress before the error is raised; default 10, 0 never reconnects.
        first: upper bound of the first pause in seconds; default 0.05; doubled at each further attempt.
        longest: upper bound of every pause in seconds; default 5.
        connects: further attempts to start a stream while no server can be reached; default 2.
        longest_retry_after: a `Retry-After` above this many seconds ends the trying; default 60.
    """

    budget: int = RETRY_BUDGET
    first: float = FIRST_BACKOFF
    longest: float = LONGEST_BACKOFF
    longest_retry_after: float = LONGEST_RETRY_AFTER
    connects: int = CONNECTS

    def backoff(self, attempt: int) -> float:
        """Return the pause in seconds before the given attempt (1 is the first), with full jitter."""
        return random.uniform(0, min(self.longest, self.first * 2.0 ** (attempt - 1)))  # noqa: S311

    def pause(self, attempt: int, retry_after: float) -> float | None:
        """Return the seconds to wait before an attempt, or None if there is no further attempt."""
        if attempt > self.budget or retry_after > self.longest_retry_after:
            return None
        return max(retry_after, self.backoff(attempt))


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that a `Retry-After` header (RFC 9110, 10.2.3: seconds or a date) asks for, or 0."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
