"""Stores of runs: in memory, SQLite or Redis."""

from streamserve.stores.base import (
    Fenced,
    Gap,
    ImmediateStore,
    Outcome,
    RunRecord,
    RunStore,
    Status,
    StoreDown,
    ThreadLocked,
    UnknownRun,
)
from streamserve.stores.memory import MemoryStore
from streamserve.stores.urls import store_at

__all__ = [
    "Fenced",
    "Gap",
    "ImmediateStore",
    "MemoryStore",
    "Outcome",
    "RunRecord",
    "RunStore",
    "Status",
    "StoreDown",
    "ThreadLocked",
    "UnknownRun",
    "store_at",
]
