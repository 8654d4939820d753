"""Appends of many runs in one call of Redis: what piled up while the one before was under way."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

from streamserve.stores.base import Fenced, Gap, StoreDown, UnknownRun
from streamserve.stores.redis.client import Client, cancel
from streamserve.stores.redis.keys import Keys
from streamserve.stores.redis.line import Line
from streamserve.stores.redis.scripts import APPEND

logger = logging.getLogger(__name__)

# Blocks in one call at most: Redis serves nobody else meanwhile, 5-10 us per block.
MAX_BLOCKS = 512
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
        for lane in lanes:
            await lane.close()


class _Lane:
    """The way to one node: a line with a few calls under way at a time, which share what is posted."""

    def __init__(self, client: Client, keys: Keys, name: str) -> None:
        self._client = client
        self._keys = keys
        self._name = name
        self._posted: deque[Append] = deque()
        self._calls = 0
        self._line: Line | None = None
        self._loop = asyncio.get_running_loop()
        self._turn: asyncio.Handle | None = None
        self._connecting: asyncio.Task[None] | None = None

    def put(self, append: Append) -> None:
        self._posted.append(append)
        if self._turn is None and self._calls < CALLS:
            # One call takes all that this turn of the event loop brings.
            self._turn = self._loop.call_soon(self._send)

    async def close(self) -> None:
        if self._turn is not None:
            self._turn.cancel()
        if self._connecting is not None:
            await cancel([self._connecting])
        if self._line is not None:
            self._line.close()

    def _send(self) -> None:
        self._turn = None
        if self._line is None:
            if self._connecting is None:
                self._connecting = self._loop.create_task(self._connect(), name="a line to redis")
            return
        while self._posted and self._calls < CALLS:
            group = self._next_group()
            # A script may touch the keys of one slot only, and on a cluster each run has its own.
            scripts = [[append] for append in group] if self._client.is_cluster else [group]
            self._calls += 1
            self._line.send([self._command(script) for script in scripts], partial(self._answered, group))

    def _answered(self, group: list[Append], replies: list[Any] | StoreDown) -> None:
        self._calls -= 1
        if isinstance(replies, StoreDown):
            _tell(group, [replies] * len(group))
        else:
            _tell(group, [Answer(*reply[at : at + 4]) for reply in replies for at in range(0, len(reply), 4)])
        if self._posted and self._turn is None:
            self._turn = self._loop.call_soon(self._send)

    async def _connect(self) -> None:
        try:
            self._line = await self._client.connect(self._name, APPEND, self._lost)
        except StoreDown as error:
            refused, self._posted = self._posted, deque()
            _tell(refused, [error] * len(refused))
        finally:
            self._connecting = None
        if self._posted:
            self._send()

    def _lost(self) -> None:
        self._line = None

    def _next_group(self) -> list[Append]:
        group: list[Append] = []
        blocks = 0
        while self._posted and (not group or blocks + len(self._posted[0].blocks) <= MAX_BLOCKS):
            append = self._posted.popleft()
            blocks += len(append.blocks)
            group.append(append)
        return group

    def _command(self, group: list[Append]) -> list[Any]:
        names: list[Any] = ["EVALSHA", APPEND.sha, 2 * len(group)]
        args: list[Any] = [self._keys.channel("")]
        for run_id, attempt, first_seq, blocks, ending, _ in group:
            names += self._keys.run_and_blocks(run_id)
            args.append(f"{attempt} {first_seq} {len(blocks)} {1 if ending else 0} {run_id}")
            args += blocks
            args += ending
        return names + args


def _tell(group: Collection[Append], answers: Sequence[Answer | StoreDown]) -> None:
    for append, answer in zip(group, answers, strict=True):
        try:
            append.answer(answer)
        except Exception:  # a fault of one listener must not leave the others without their answers
            logger.exception("an answer was not taken")
