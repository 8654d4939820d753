"""Who a worker is, and what it holds."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Held:
    """What is known of a live run of this worker, true as long as the worker is registered.

    Args:
        number: of the run.
        attempt: whose owner this worker is.
        last_id: number of the last stored block; 0: none.
        size: of the stored blocks, in bytes.
    """

    number: int
    attempt: int
    last_id: int
    size: int


@dataclass
class Identity:
    """Who this worker is: a new one after it was found dead. It outlives the connection.

    Args:
        lease: seconds without a sign of life after which its runs are lost.
        clock: seconds since the epoch.
        worker: its name.
        held: what is known of its live runs. It is cleared before the name changes, and the event loop looks at it
            after the name: what it finds is true as long as that name is registered.
    """

    lease: float
    clock: Callable[[], float]
    worker: str = field(default_factory=lambda: uuid.uuid4().hex)
    held: dict[str, Held] = field(default_factory=dict)
    reading: set[str] = field(default_factory=set)
    well_since: float = 0.0
