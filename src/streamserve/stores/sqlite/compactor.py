"""Keep the file and its log small, on a connection beside those of writers and readers."""

from pathlib import Path

from streamserve.stores.sqlite.schema import connect

# Bytes of the log that are worth a checkpoint.
MIN_LOG = 2**20
# Bytes of the log past which writers wait for a checkpoint: only then can the log start over. At 10,000 blocks a
# second it grows by 20 MB a second, so that writers wait every few seconds.
MAX_LOG = 64 * 2**20
# Free pages that are worth giving back.
MIN_FREE = 1000


class Compactor:
    """A connection for checkpoints.

    Args:
        path: path of the file.
    """

    def __init__(self, path: Path) -> None:
        self._connection = connect(path)
        self._log = path.with_name(path.name + "-wal")

    def begin(self) -> None:
        """Begin nothing: a checkpoint cannot be in a transaction."""

    def commit(self) -> None:
        """Commit nothing, likewise."""

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def compact(self) -> bool:
        """Move the log into the file. Return whether the file has pages to give back.

        Writers go on meanwhile, unless the log has become too long.
        """
        if self._log_size() > MIN_LOG:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        if self._log_size() > MAX_LOG:
            # Most of the work is done by now, so writers wait for the short rest only.
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        (free,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        return bool(free > MIN_FREE)

    def _log_size(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0
