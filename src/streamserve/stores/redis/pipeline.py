"""Appends of many runs in one call of Redis: those that arrived while the call before was under way."""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from streamserve.stores.base import Fenced, Gap, StoreDown, UnknownRun
from streamserve.stores.redis.client import Client
from streamserve.stores.redis.connection import Connection, cancel
from streamserve.stores.redis.keys import Keys
from streamserve.stores.redis.scripts import APPEND

logger = logging.getLogger(__name__)

# Maximum number of blocks in one call: Redis serves nobody else meanwhile, for 5-10 us per block.
MAX_BLOCKS = 512
OK, UNKNOWN, FENCED, GAP = range(4)


class Answer(NamedTuple):
    """The result of an append.

    Args:
        state: OK, UNKNOWN, FENCED or GAP.
        last_id: number of the run's last stored block.
        cancelled: 1 if a cancel of the run was requested, else 0.
        size: bytes of all blocks of the run.
    """

    state: int
    last_id: int
    cancelled: int
    size: int

    def refusal(self, run_id: str) -> Exception:
        """Return the error of an append that stored nothing."""
        if self.state == UNKNOWN:
            return UnknownRun(run_id)
        return Gap(self.last_id + 1) if self.state == GAP else Fenced(run_id)


class Append(NamedTuple):
    """Blocks of one run that are to be stored.

    Args:
        ending: the outcome as the script takes it; empty unless the last block is the terminal one.
        answer: callback that takes the result, or a StoreDown.
    """

    run_id: str
    attempt: int
    first_seq: int
    blocks: Sequence[bytes]
    ending: Sequence[str | bytes | int]
    answer: Callable[[Answer | StoreDown], None]


class Appends:
    """The appends of this process. Each node has a pipeline of its own, so that a dead one delays no other."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._pipelines: dict[str, _Pipeline] = {}

    def post(self, append: Append) -> None:
        """Store the blocks of an append with the next call."""
        node = self._client.node_of(self._keys.run(append.run_id)) if self._client.is_cluster else ""
        pipeline = self._pipelines.get(node)
        if pipeline is None:
            pipeline = self._pipelines[node] = _Pipeline(self._client, self._keys, node)
        pipeline.put(append)

    async def close(self) -> None:
        """Close the pipelines. Appends under way get no answer."""
        pipelines, self._pipelines = self._pipelines, {}
        for pipeline in pipelines.values():
            await pipeline.close()


class _Pipeline:
    """The calls to one node: one at a time, each with all that was posted during the one before.

    A second call at the same time would take blocks from the first: smaller calls cost more CPU per block.
    """

    def __init__(self, client: Client, keys: Keys, node: str) -> None:
        self._client = client
        self._keys = keys
        self._node = node
        self._connection: Connection | None = None
        self._posted: deque[Append] = deque()
        self._any_posted = asyncio.Event()
        self._task = asyncio.create_task(self._call_forever())

    def put(self, append: Append) -> None:
        self._posted.append(append)
        self._any_posted.set()

    async def close(self) -> None:
        await cancel([self._task])
        if self._connection is not None:
            await self._connection.close()

    async def _call_forever(self) -> None:
        while True:
            group: list[Append] = []
            try:
                await self._any_posted.wait()
                connection = await self._connected()
                group = self._take(MAX_BLOCKS)
                # A script may touch the keys of one slot only, and on a cluster each run has its own.
                scripts = [[append] for append in group] if self._client.is_cluster else [group]
                replies = await connection.call([self._command(script) for script in scripts])
            except StoreDown as error:
                self._client.refresh_nodes()
                _answer(group or self._take(math.inf), error)
            except Exception as error:  # without this task no run of this process could end
                logger.exception("blocks could not be sent")
                _answer(group or self._take(math.inf), StoreDown(repr(error)))
            else:
                _answer(group, [Answer(*reply[at : at + 4]) for reply in replies for at in range(0, len(reply), 4)])

    async def _connected(self) -> Connection:
        if self._connection is None or not await self._connection.is_usable():
            connection = Connection(await self._client.connect(self._node), self._client.timeout)
            await connection.call([("SCRIPT", "LOAD", APPEND.source)])
            self._connection = connection
        return self._connection

    def _take(self, max_blocks: float) -> list[Append]:
        group: list[Append] = []
        blocks = 0
        while self._posted and (not group or blocks + len(self._posted[0].blocks) <= max_blocks):
            append = self._posted.popleft()
            blocks += len(append.blocks)
            group.append(append)
        if not self._posted:
            self._any_posted.clear()
        return group

    def _command(self, group: list[Append]) -> list[Any]:
        names: list[Any] = ["EVALSHA", APPEND.sha, 2 * len(group)]
        args: list[Any] = [self._keys.channel("")]
        for run_id, attempt, first_seq, blocks, ending, _ in group:
            names += [self._keys.run(run_id), self._keys.run(run_id, "blocks")]
            args.append(f"{attempt} {first_seq} {len(blocks)} {1 if ending else 0} {run_id}")
            args += blocks
            args += ending
        return names + args


def _answer(group: list[Append], answers: Sequence[Answer] | StoreDown) -> None:
    for index, append in enumerate(group):
        try:
            append.answer(answers if isinstance(answers, StoreDown) else answers[index])
        except Exception:  # an error of one callback must not leave the others without their answers
            logger.exception("the callback of an append failed")
