"""What the server says of itself: logs, metrics and traces."""

from streamserve.telemetry.telemetry import Telemetry

__all__ = ["Telemetry"]
