"""Appends of many runs in one call of Redis: what piled up while the one before was under way."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from streamserve.stores.base import Fenced, Gap, StoreDown, UnknownRun
from streamserve.stores.redis.client import Client
from streamserve.stores.redis.keys import Keys
from streamserve.stores.redis.listener import cancel
from streamserve.stores.redis.scripts import APPEND

logger = logging.getLogger(__name__)

# Blocks in one call at most: Redis serves nobody else meanwhile, 5-10 us per block.
MAX_BLOCKS = 512
# Seconds between two calls at least, while they are crowded. A call costs 150 us whatever is in it, so at 10,000
# blocks a second ten share it, and wait for half of this on average.
SPACING = 0.0005
# Appends in one call from which on waiting for more pays.
CROWD = 3
# Calls under way to a node at a time: with a single one, a block waits for the one before it and then for its own. The
# second takes no more CPU, as long as a turn of the event loop brings several blocks.
CALLS = 2
OK, UNKNOWN, FENCED, GAP = range(4)


class Answer(NamedTuple):
    """What became of an append.

    Args:
        state: OK, UNKNOWN, FENCED or GAP.
        last_id: number of the run's last stored block.
        cancelled: 1 if somebody wants the run cancelled, else 0.
        size: of the run's blocks together, in bytes.
    """

    state: int
    last_id: int
    cancelled: int
    size: int


def refusal(run_id: str, answer: Answer) -> Exception:
    """What an append raises that was not carried out."""
    if answer.state == UNKNOWN:
        return UnknownRun(run_id)
    return Gap(answer.last_id + 1) if answer.state == GAP else Fenced(run_id)


class Append(NamedTuple):
    """One run's blocks on their way.

    Args:
        ending: of the outcome, for the script; empty unless the last block is the terminal one.
        answer: called with what became of it, or with a StoreDown.
    """

    run_id: str
    attempt: int
    first_seq: int
    blocks: Sequence[bytes]
    ending: Sequence[str | bytes | int]
    answer: Callable[[Answer | StoreDown], None]


class Appends:
    """The appends of this process; a lane for each node, so that one that is away holds up no other.

    Args:
        client: of Redis.
        keys: the names.
    """

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._lanes: dict[str, _Lane] = {}

    def post(self, append: Append) -> None:
        """Has an append carried out with others."""
        name = self._client.lane(self._keys.run(append.run_id)) if self._client.is_cluster else ""
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = _Lane(self._client, self._keys, name)
        lane.put(append)

    async def close(self) -> None:
        """Ends the lanes; what is still under way is not answered."""
        lanes, self._lanes = list(self._lanes.values()), {}
        await cancel([task for lane in lanes for task in lane.tasks])


class _Lane:
    """The way to one node: a few connections with a call at a time each, which share what is posted."""

    def __init__(self, client: Client, keys: Keys, name: str) -> None:
        self._client = client
        self._keys = keys
        self._name = name
        self._posted: deque[Append] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._loop = asyncio.get_running_loop()
        self.tasks = [self._loop.create_task(self._serve(), name="appends to redis") for _ in range(CALLS)]

    def put(self, append: Append) -> None:
        # Whoever is woken takes all that this turn of the event loop brings.
        if not self._posted:
            self._wake()
        self._posted.append(append)

    def _wake(self) -> None:
        while self._idle:
            idle = self._idle.popleft()
            if not idle.done():
                idle.set_result(None)
                return

    async def _serve(self) -> None:
        connection, crowded, began = None, False, 0.0
        try:
            while True:
                while not self._posted:
                    idle = self._loop.create_future()
                    self._idle.append(idle)
                    await idle
                if crowded and (pause := began + SPACING - self._loop.time()) > 0:
                    await asyncio.sleep(pause)
                    crowded = False
                    continue  # another one may have taken all
                began, group = self._loop.time(), self._next_group()
                if self._posted:
                    self._wake()
                crowded = len(group) >= CROWD
                try:
                    connection = connection or await self._client.connect(self._name, APPEND)
                    answers: Sequence[Answer | StoreDown] = await self._carry_out(connection, group)
                except StoreDown as error:
                    await _drop(connection)
                    connection = None
                    answers = [error] * len(group)
                _tell(group, answers)
        finally:
            await _drop(connection)

    def _next_group(self) -> list[Append]:
        group: list[Append] = []
        blocks = 0
        while self._posted and (not group or blocks + len(self._posted[0].blocks) <= MAX_BLOCKS):
            append = self._posted.popleft()
            blocks += len(append.blocks)
            group.append(append)
        return group

    async def _carry_out(self, connection: Any, group: list[Append]) -> list[Answer]:
        # A script may touch the keys of one slot only, and on a cluster each run has its own.
        calls = [[append] for append in group] if self._client.is_cluster else [group]
        replies = await self._client.call(connection, [self._command(call) for call in calls])
        return [Answer(*reply[at : at + 4]) for reply in replies for at in range(0, len(reply), 4)]

    def _command(self, group: list[Append]) -> list[Any]:
        names: list[Any] = ["EVALSHA", APPEND.sha, 2 * len(group)]
        args: list[Any] = [self._keys.channel("")]
        for run_id, attempt, first_seq, blocks, ending, _ in group:
            names += self._keys.run_and_blocks(run_id)
            args.append(f"{attempt} {first_seq} {len(blocks)} {1 if ending else 0} {run_id}")
            args += blocks
            args += ending
        return names + args


def _tell(group: list[Append], answers: Sequence[Answer | StoreDown]) -> None:
    for append, answer in zip(group, answers, strict=True):
        try:
            append.answer(answer)
        except Exception:  # a fault of one listener must not leave the others without their answers
            logger.exception("an answer was not taken")


async def _drop(connection: Any) -> None:
    if connection is not None:
        await connection.disconnect(nowait=True)
