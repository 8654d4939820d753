"""Appends that the event loop puts together for the writer's thread.

Each block that the thread had to touch would cost several times as much there: it is another core, on which the
interpreter and the block have to arrive first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from streamserve.stores.base import Stored
from streamserve.stores.sqlite.identity import Held
from streamserve.stores.sqlite.journal import Page
from streamserve.stores.sqlite.rows import PLAIN


class Append(NamedTuple):
    """One run's blocks on their way.

    Args:
        stored: as for RunStore.post.
        held: what the blocks follow.
    """

    run_id: str
    attempt: int
    first_seq: int
    blocks: Sequence[bytes]
    stored: Stored
    held: Held


class Posted(Page):
    """A page of appends, each of which goes on where the store has the run, as far as the event loop knows.

    Args:
        worker: under whose registration that is so.
    """

    def __init__(self, worker: str) -> None:
        super().__init__()
        self.worker = worker
        self.appends: list[Append] = []

    def add_append(self, append: Append) -> None:
        """Adds an append."""
        self.add(append.held.number, append.first_seq, PLAIN, append.blocks)
        self.appends.append(append)
