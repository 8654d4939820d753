"""The bounds of one run."""

from dataclasses import dataclass
from typing import Self

from streamserve.settings import Settings


@dataclass(frozen=True, slots=True)
class RunLimits:
    """The bounds of one run; the settings give the reasons.

    Args:
        events: maximum number of blocks.
        bytes: maximum size of all blocks together, in bytes.
        timeout: seconds before the run ends with the error `timeout`.
        cancel_grace: seconds for a cancelled chain to close its resources.
        store_patience: seconds without a reachable store before the run is given up.
        store_strict: True to show a block only once it is stored. Default: True.
    """

    events: int
    bytes: int
    timeout: float
    cancel_grace: float
    store_patience: float
    store_strict: bool = True

    @classmethod
    def of(cls, settings: Settings, timeout: float | None) -> Self:
        """Return the limits of the settings; a `timeout` in seconds overrides theirs."""
        return cls(
            events=settings.max_run_events,
            bytes=settings.max_run_bytes,
            timeout=timeout or settings.run_timeout,
            cancel_grace=settings.cancel_grace,
            store_patience=settings.store_patience,
            store_strict=settings.store_strict,
        )
