"""The limit of every wait: long enough for a slow machine, since a test that passes does not wait for it."""

from __future__ import annotations

LIMIT = 60.0  # seconds
