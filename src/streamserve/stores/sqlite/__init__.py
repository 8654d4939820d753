"""Runs in a SQLite file: for one machine with several workers, or for restarts."""

from streamserve.stores.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
