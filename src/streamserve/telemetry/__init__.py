"""Logs, metrics and traces of the server."""

from streamserve.telemetry.telemetry import Telemetry

__all__ = ["Telemetry"]
