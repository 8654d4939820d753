"""The bounds of one run."""

from __future__ import annotations

from dataclasses import dataclass

from streamserve.settings import Settings


@dataclass(frozen=True, slots=True)
class RunLimits:
    """Bounds of one run; the settings say why.

    Args:
        events: blocks at most.
        bytes: of its blocks together at most.
        timeout: seconds until it is ended with `timeout`.
        cancel_grace: seconds that a cancelled chain gets to close what it opened.
        store_patience: seconds that the store may be away before the run is given up.
        store_strict: show a block only once it is stored.
    """

    events: int
    bytes: int
    timeout: float
    cancel_grace: float
    store_patience: float
    store_strict: bool = True

    @classmethod
    def of(cls, settings: Settings, timeout: float | None) -> RunLimits:
        """What the settings say; `timeout` goes before theirs."""
        return cls(
            events=settings.max_run_events,
            bytes=settings.max_run_bytes,
            timeout=timeout or settings.run_timeout,
            cancel_grace=settings.cancel_grace,
            store_patience=settings.store_patience,
            store_strict=settings.store_strict,
        )
