"""The command `streamserve`."""

from streamserve.cli.main import main

__all__ = ["main"]
