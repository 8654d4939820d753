"""The names of everything that is kept in Redis; what one script touches together shares a hash tag."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """Names under a prefix.

    Args:
        prefix: so that one Redis can serve several deployments.
    """

    prefix: str

    def run(self, run_id: str) -> str:
        """Hash: the record."""
        return f"{self.prefix}:{{{run_id}}}:run"

    def blocks(self, run_id: str) -> str:
        """Stream: the blocks of a run that is not sealed; a block's id is `seq-0`."""
        return f"{self.prefix}:{{{run_id}}}:blocks"

    def run_and_blocks(self, run_id: str) -> tuple[str, str]:
        """Both at once: they are made for each token."""
        tag = f"{self.prefix}:{{{run_id}}}"
        return tag + ":run", tag + ":blocks"

    def pieces(self, run_id: str) -> str:
        """Hash: the compressed pieces of a sealed run by the number of their first block."""
        return f"{self.prefix}:{{{run_id}}}:pieces"

    def request(self, run_id: str) -> str:
        """String: what another worker needs to go on with the run."""
        return f"{self.prefix}:{{{run_id}}}:request"

    def readers(self, run_id: str) -> str:
        """Hash: the workers that have readers of the run and do not own it."""
        return f"{self.prefix}:{{{run_id}}}:readers"

    def key(self, key: str) -> str:
        """String: the id of the run that an idempotency key names."""
        return f"{self.prefix}:key:{{{hashlib.sha256(key.encode()).hexdigest()}}}"

    def thread(self, thread: str) -> str:
        """Sorted set: the runs of a thread in the order in which they came, and perhaps some that have ended."""
        return f"{self.prefix}:thread:{{{hashlib.sha256(thread.encode()).hexdigest()}}}"

    @property
    def leases(self) -> str:
        """Sorted set: until when each worker's lease lasts, in milliseconds of Redis's clock."""
        return f"{self.prefix}:{{workers}}:leases"

    @property
    def beats(self) -> str:
        """Hash: when any worker was last heard of, and until when nobody is given up."""
        return f"{self.prefix}:{{workers}}:beats"

    def owned(self, worker: str) -> str:
        """Set: the runs that a worker owns, and perhaps some that have ended."""
        return f"{self.prefix}:{{{worker}}}:runs"

    def reads(self, worker: str) -> str:
        """Set: the runs of others that a worker has readers of."""
        return f"{self.prefix}:{{{worker}}}:reads"

    def ended(self, what: str) -> str:
        """The index of ended runs: `order`, `info`, `totals`, `tombstones`."""
        return f"{self.prefix}:{{ended}}:{what}"

    def channel(self, run_id: str) -> str:
        """Pub/sub: the blocks of a run as they are stored."""
        return f"{self.prefix}:run:{run_id}"

    def control(self, worker: str) -> str:
        """Pub/sub: what a worker is told."""
        return f"{self.prefix}:worker:{worker}"
