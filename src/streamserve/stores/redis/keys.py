"""The names of everything that is kept in Redis.

The keys that one script touches share a hash tag, the part in braces, so that they are on one node of a cluster:

    PREFIX:{RUN}:run            hash: the record
    PREFIX:{RUN}:blocks         stream: the blocks of a run that is not sealed; a block's id is `seq-0`
    PREFIX:{RUN}:pieces         hash: the compressed pieces of a sealed run by the number of their first block
    PREFIX:{RUN}:request        string: the request, for the worker that recovers the run
    PREFIX:{RUN}:readers        hash: the workers that have readers of the run and do not own it
    PREFIX:{WORKER}:runs        set: the runs that a worker owns, and perhaps some that have ended
    PREFIX:{WORKER}:reads       set: the runs of other workers that a worker has readers of
    PREFIX:{workers}:leases     sorted set: the end of each worker's lease, in milliseconds of Redis's clock
    PREFIX:{workers}:beats      hash: time of the last heartbeat of any worker, and until when no worker counts as dead
    PREFIX:{ended}:*            the index of ended runs: order, info, totals, tombstones
    PREFIX:key:{SHA256}         string: the id of the run that an idempotency key names
    PREFIX:thread:{SHA256}      sorted set: the runs of a thread in order of arrival, and perhaps some that have ended

Channels:

    PREFIX:run:RUN              the blocks of a run as they are stored
    PREFIX:worker:WORKER        messages to a worker
"""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """Names under a prefix, by which several deployments can share one Redis."""

    prefix: str

    def run(self, run_id: str, what: str = "run") -> str:
        return f"{self.prefix}:{{{run_id}}}:{what}"

    def worker(self, worker: str, what: str) -> str:
        return f"{self.prefix}:{{{worker}}}:{what}"

    def workers(self) -> tuple[str, str]:
        return f"{self.prefix}:{{workers}}:leases", f"{self.prefix}:{{workers}}:beats"

    def ended(self, *whats: str) -> list[str]:
        return [f"{self.prefix}:{{ended}}:{what}" for what in whats]

    def key(self, key: str) -> str:
        return f"{self.prefix}:key:{{{hashlib.sha256(key.encode()).hexdigest()}}}"

    def thread(self, thread: str) -> str:
        return f"{self.prefix}:thread:{{{hashlib.sha256(thread.encode()).hexdigest()}}}"

    def channel(self, run_id: str) -> str:
        return f"{self.prefix}:run:{run_id}"

    def control(self, worker: str) -> str:
        return f"{self.prefix}:worker:{worker}"
