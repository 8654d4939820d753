"""The journal: one row for all that a transaction appends, so that a commit writes one or two pages however many runs
there are. A moment later the keeper moves it into `blocks`, which is in the order of the runs.

It is never without a row: the next one's id counts on from the newest.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections import deque
from collections.abc import Container, Iterator, Sequence
from typing import NamedTuple

from streamserve.stores.base import RunRecord
from streamserve.stores.sqlite.rows import RECORD, TERMINAL, Piece, to_record

# Of a block run, first_seq, count and kind precede the sizes of its blocks.
FIXED = 4


class Entry(NamedTuple):
    """One run's part of a row.

    Args:
        run: its number.
        first_seq: of the first block.
        sizes: of the blocks.
        at_end: whether the last one is the terminal block.
        start: of the first block in the row's data.
    """

    run: int
    first_seq: int
    sizes: array[int]
    at_end: bool
    start: int

    def piece(self, data: bytes) -> Piece:
        """Its blocks, cut out of the row's data."""
        blocks, start = [], self.start
        for size in self.sizes:
            blocks.append(data[start : start + size])
            start += size
        return Piece(self.first_seq, blocks, self.at_end)


class Page:
    """A row that is being filled."""

    def __init__(self) -> None:
        self._head = array("I")
        self._data: list[bytes] = []

    def add(self, run: int, first_seq: int, kind: int, blocks: Sequence[bytes]) -> None:
        """Adds a run's blocks."""
        self._head.extend((run, first_seq, len(blocks), kind, *map(len, blocks)))
        self._data += blocks

    def add_page(self, page: Page) -> None:
        """Adds what is in another one."""
        self._head += page._head
        self._data += page._data

    def __bool__(self) -> bool:
        return bool(self._head)

    def store(self, connection: sqlite3.Connection) -> None:
        """Writes the row, unless it is empty, and begins a new one."""
        if self._head:
            connection.execute("INSERT INTO journal (head, data) VALUES (?, ?)", self._row())
            self.clear()

    def store_as(self, worker: str, connection: sqlite3.Connection) -> bool:
        """Writes the row as a transaction of its own, and begins a new one; False if that worker is not registered.

        One statement: between two of them other threads take their turn, which costs more than the statements.
        """
        if not self._head:
            return True
        stored = connection.execute(
            "INSERT INTO journal (head, data) SELECT ?, ? WHERE EXISTS (SELECT 1 FROM workers WHERE worker = ?)",
            (*self._row(), worker),
        ).rowcount
        self.clear()
        return stored == 1

    def _row(self) -> tuple[bytes, bytes]:
        return self._head.tobytes(), b"".join(self._data)

    def clear(self) -> None:
        """Forgets what was added."""
        del self._head[:]
        self._data.clear()


def entries(head: bytes, wanted: Container[int] | None = None) -> Iterator[Entry]:
    """The entries of a row, of all runs or of the wanted ones."""
    numbers, at, start = array("I", head), 0, 0
    while at < len(numbers):
        run, first_seq, count, kind = numbers[at : at + FIXED]
        sizes = numbers[at + FIXED : at + FIXED + count]
        if wanted is None or run in wanted:
            yield Entry(run, first_seq, sizes, kind == TERMINAL, start)
        at += FIXED + count
        start += sum(sizes)


class Journal:
    """What of each run is in the journal, as one connection sees it; asked within a transaction.

    Args:
        connection: its rows are looked at once each.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._last_id = 0
        self._rows: deque[tuple[int, list[int]]] = deque()
        self._places: dict[int, deque[tuple[int, Entry]]] = {}

    def refresh(self) -> None:
        """Looks at what was added, and forgets what was moved."""
        (first_id,) = self.connection.execute("SELECT coalesce(min(id), 0) FROM journal").fetchone()
        while self._rows and self._rows[0][0] < first_id:
            for run in self._rows.popleft()[1]:
                self._drop_first(run)
        for row_id, head in self.connection.execute("SELECT id, head FROM journal WHERE id > ?", (self._last_id,)):
            self._last_id = row_id
            found = list(entries(head))
            self._rows.append((row_id, [entry.run for entry in found]))
            for entry in found:
                self._places.setdefault(entry.run, deque()).append((row_id, entry))

    def _drop_first(self, run: int) -> None:
        places = self._places[run]
        places.popleft()
        if not places:
            del self._places[run]

    def extent(self, run: int) -> tuple[int, int]:
        """Number of a run's last block here, or 0, and the size of all that are here."""
        places = self._places.get(run, ())
        size = sum(sum(entry.sizes) for _, entry in places)
        return (_last_seq(places[-1][1]) if places else 0), size

    def pieces(self, run: int, after: int) -> Iterator[Piece]:
        """A run's pieces that have blocks after a cursor, in their order."""
        for row_id, entry in tuple(self._places.get(run, ())):
            if _last_seq(entry) > after:
                yield self._piece(row_id, entry)

    def last_piece(self, run: int) -> Piece | None:
        """A run's newest piece; None if there is none here."""
        places = self._places.get(run)
        return self._piece(*places[-1]) if places else None

    def _piece(self, row_id: int, entry: Entry) -> Piece:
        (data,) = self.connection.execute("SELECT data FROM journal WHERE id = ?", (row_id,)).fetchone()
        return entry.piece(data)


def find_record(journal: Journal, where: str, value: object) -> RunRecord | None:
    """The record that a condition on `runs` names, with what of its blocks is in the journal.

    Args:
        journal: of the connection.
        where: the condition, with one parameter.
        value: of the parameter.
    """
    query = f"SELECT number, {RECORD} FROM runs WHERE {where}"  # noqa: S608 - constants
    row = journal.connection.execute(query, (value,)).fetchone()
    if row is None:
        return None
    record = to_record(row[1:])
    if not record.ended:
        journal.refresh()
        record.last_id = max(record.last_id, journal.extent(row[0])[0])
        record.status = "running" if record.last_id else "queued"
    return record


def _last_seq(entry: Entry) -> int:
    return entry.first_seq + len(entry.sizes) - 1
