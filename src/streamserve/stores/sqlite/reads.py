"""The readers' session: a connection that waits for no writer."""

from pathlib import Path

from streamserve.stores.base import RunRecord, Slice
from streamserve.stores.sqlite.rows import NAMED, find_record, unpack
from streamserve.stores.sqlite.schema import connect


class ReadSession:
    """A connection that reads.

    Args:
        path: path of the file.
    """

    def __init__(self, path: Path) -> None:
        self._connection = connect(path)

    def begin(self) -> None:
        """Begin a transaction: its reads see one state of the file."""
        self._connection.execute("BEGIN")

    def commit(self) -> None:
        """End the transaction."""
        self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def get(self, run_id: str) -> RunRecord | None:
        """Return a run's record, as RunStore.get promises."""
        return find_record(self._connection, "run_id = ?", run_id)

    def named(self, key: str) -> RunRecord | None:
        """Return the record of the run that a key names, as RunStore.named promises."""
        return find_record(self._connection, NAMED, key)

    def ahead(self, run: RunRecord) -> list[str]:
        """Return the live runs before a run in its thread, as RunStore.ahead promises."""
        rows = self._connection.execute(
            "SELECT run_id FROM runs WHERE thread = ?1 AND end_number IS NULL"
            " AND number < coalesce((SELECT number FROM runs WHERE run_id = ?2), number + 1) ORDER BY number",
            (run.thread, run.run_id),
        )
        return [run_id for (run_id,) in rows]

    def read(self, run_id: str, after: int, limit: int) -> tuple[Slice, bool]:
        """Return blocks as RunStore.read promises, and whether the run has no further ones yet."""
        row = self._connection.execute(
            "SELECT number, end_number IS NOT NULL, last_id, forget_at FROM runs WHERE run_id = ?", (run_id,)
        ).fetchone()
        if row is None or row[3] is not None:
            return Slice((), True), False
        number, ended, last_id, _ = row
        blocks = self._blocks(number, after, limit)
        at_end = bool(ended) and after + len(blocks) >= last_id
        return Slice(blocks, at_end), at_end or len(blocks) < limit

    def _blocks(self, number: int, after: int, limit: int) -> list[bytes]:
        # From the row that holds the first wanted block to the one that holds the last.
        rows = self._connection.execute(
            "SELECT first_seq, sizes, data FROM blocks WHERE run = ?1 AND first_seq <= ?2 + ?3 AND first_seq >="
            " coalesce((SELECT max(first_seq) FROM blocks WHERE run = ?1 AND first_seq <= ?2 + 1), 0)"
            " ORDER BY first_seq",
            (number, after, limit),
        ).fetchall()
        blocks: list[bytes] = []
        for _, sizes, data in rows:
            blocks += unpack(sizes, data)
        if rows:
            del blocks[: after + 1 - rows[0][0]]
        return blocks[:limit]

    def is_read_elsewhere(self, run_id: str, worker: str, now: float) -> bool:
        """Return whether a live worker other than the given one has readers of a run."""
        return bool(
            self._connection.execute(
                "SELECT 1 FROM readers JOIN workers USING (worker) WHERE run_id = ? AND worker <> ? AND until >= ?",
                (run_id, worker, now),
            ).fetchone()
        )
