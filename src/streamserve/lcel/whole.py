"""The whole of a stream: what a chain's `invoke` returns, from the chunks of its `astream`.

The chunks of most steps are parts, and their sum is the whole. The chunks of a JSON parser are snapshots, and the last
one is the whole. A map has one whole per branch, because the branches' chunks come in any order. `plans` finds out what
a chain's chunks are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Protocol

from langchain_core.messages import BaseMessageChunk
from langchain_core.messages.utils import message_chunk_to_message
from langchain_core.runnables.utils import AddableDict
from langchain_core.tracers.log_stream import RunLogPatch

from streamserve.lcel.chunk_sum import ChunkSum
from streamserve.lcel.growth import continues

logger = logging.getLogger(__name__)

# Chunks in a row, each a continuation of the one before, that prove a stream of snapshots.
EVIDENCE = 8


class Whole(Protocol):
    """The whole of the chunks so far."""

    def add(self, chunk: Any) -> None:
        """Take the next chunk."""

    def value(self) -> Any:
        """Return the whole, or None without chunks.

        Raises:
            NoWhole: the chunks do not tell it.
        """


class NoWhole(Exception):
    """The chunks of a stream do not tell what `invoke` would have returned."""


# Makes the whole of one stream.
Plan = Callable[[], Whole]


class Sum:
    """The sum of all chunks; what cannot be added replaces the sum, as in the `invoke` of a generator."""

    def __init__(self) -> None:
        self._sum = ChunkSum(restarts=True)

    def add(self, chunk: Any) -> None:
        """Take the next part."""
        self._sum.add(chunk)

    def value(self) -> Any:
        """Return the sum of the parts."""
        return self._sum.value()


class Output(Sum):
    """The sum of all chunks; chunks of a message make a message."""

    def value(self) -> Any:
        """Return the sum as `invoke` returns it."""
        total = super().value()
        return message_chunk_to_message(total) if isinstance(total, BaseMessageChunk) else total


class Streamed(Output):
    """The sum of the chunks of a chat model, a completion model or a text parser: they lose nothing as JSON."""


class Last:
    """The last chunk, for snapshots."""

    def __init__(self) -> None:
        self._chunk: Any = None

    def add(self, chunk: Any) -> None:
        """Take the next snapshot."""
        self._chunk = chunk

    def value(self) -> Any:
        """Return the last snapshot."""
        return self._chunk


class Patched(Sum):
    """The value after all chunks, which are lists of JSON patches."""

    def value(self) -> Any:
        """Return the patched value, or None without patches."""
        patches = super().value()
        return (RunLogPatch() + RunLogPatch(*patches)).state if patches else None


@dataclass(frozen=True, slots=True)
class Updates:
    """The plan of a graph that is a step of a chain: its chunks are updates by its nodes, which do not tell the state.

    Args:
        nodes: the names of the nodes.
    """

    nodes: frozenset[str]

    def __call__(self) -> Whole:
        """Make the whole of one stream."""
        return _Untold()


class _Untold:
    def add(self, chunk: Any) -> None:
        pass

    def value(self) -> Any:
        raise NoWhole()


@dataclass(frozen=True, slots=True)
class Branches:
    """The plan of a dict with one whole per key.

    Args:
        plans: the plan of each key.
        rest: the plan of a dict with all other keys; None: there are no others.
    """

    plans: Mapping[str, Plan]
    rest: Plan | None = None

    def __call__(self) -> Whole:
        """Make the whole of one stream."""
        return _Dict({key: plan() for key, plan in self.plans.items()}, self.rest and self.rest())

    def has(self, keys: Set[str]) -> bool:
        """Return whether the dict may have all of these keys."""
        others = keys - self.plans.keys()
        return not others or (self.rest.has(others) if isinstance(self.rest, Branches) else self.rest is not None)

    def pick(self, keys: Iterable[str]) -> Branches:
        """Return the plan of a dict with these keys only."""
        return Branches({key: self.plans[key] for key in keys if key in self.plans}, self.rest)


class _Dict:
    def __init__(self, branches: Mapping[str, Whole], rest: Whole | None) -> None:
        self._branches, self._rest = branches, rest

    def add(self, chunk: Mapping[str, Any]) -> None:
        others = {}
        for key, value in chunk.items():
            if key in self._branches:
                self._branches[key].add(value)
            else:
                others[key] = value
        if others and self._rest is not None:
            self._rest.add(AddableDict(others))

    def value(self) -> dict[str, Any]:
        rest = self._rest and self._rest.value()
        return {**(rest or {}), **{key: whole.value() for key, whole in self._branches.items()}}


@dataclass(frozen=True, slots=True)
class Alternatives:
    """The plan of a step that streams one of several; its chunks tell which."""

    plans: tuple[Plan, ...]

    def __call__(self) -> Whole:
        """Make the whole of one stream."""
        return _Chosen(self.plans)


class _Chosen:
    """The whole of the alternative that suits all chunks. A map's first chunk may suit several maps."""

    def __init__(self, plans: tuple[Plan, ...]) -> None:
        self._plans = plans
        self._wholes: list[tuple[Plan, Whole]] = []

    def add(self, chunk: Any) -> None:
        if not self._wholes:
            plans = [plan for plan in self._plans if _suits(plan, chunk)] or [_by_chunk(self._plans, chunk)]
            self._wholes = [(plan, plan()) for plan in plans]
        elif len(self._wholes) > 1:
            self._wholes = [each for each in self._wholes if _suits(each[0], chunk)] or self._wholes
        for _, whole in self._wholes:
            whole.add(chunk)

    def value(self) -> Any:
        wholes = sorted(self._wholes, key=lambda each: len(each[0].plans) if isinstance(each[0], Branches) else 0)
        return wholes[0][1].value() if wholes else None


def _suits(plan: Plan, chunk: Any) -> bool:
    if isinstance(plan, Branches):
        return type(chunk) is AddableDict and bool(chunk) and plan.has(chunk.keys())
    if isinstance(plan, Updates):
        return type(chunk) is dict and bool(chunk) and chunk.keys() <= plan.nodes
    ops = chunk if plan is Patched and isinstance(chunk, list) else ()
    return bool(ops) and all(isinstance(op, dict) and {"op", "path"} <= op.keys() for op in ops)


def _by_chunk(plans: Sequence[Plan], chunk: Any) -> Plan:
    """Return the plan of a stream that no map and no patches begin."""
    if Last not in plans:
        return Output
    has_parts = any(plan is Sum or plan is Output for plan in plans)
    return _Undecided if has_parts or isinstance(chunk, str | BaseMessageChunk) else Last


class _Undecided:
    """The whole of parts or snapshots: snapshots are chunks of which each continues the one before."""

    def __init__(self) -> None:
        self._last: Any = None
        self._count = 0
        self._grows = True
        self._sum: Output | None = Output()

    def add(self, chunk: Any) -> None:
        """Take the next part or snapshot."""
        if self._sum is not None:
            self._sum.add(chunk)
            self._grows = self._grows and (not self._count or continues(self._last, chunk))
            self._count += 1
            if self._grows and self._count == EVIDENCE:
                self._sum = None
        self._last = chunk

    def value(self) -> Any:
        """Return the last snapshot or the sum of the parts."""
        is_snapshot = self._sum is None or (self._grows and self._count > 1)
        return self._last if is_snapshot or self._sum is None else self._sum.value()


class Kept:
    """The whole of a stream on its way. A sum that fails ends only the keeping, because the stream is right without it.

    Args:
        whole: of this stream.
    """

    __slots__ = ("_whole",)

    def __init__(self, whole: Whole) -> None:
        self._whole: Whole | None = whole

    def add(self, chunk: Any) -> None:
        """Take the next chunk."""
        if self._whole is not None:
            try:
                self._whole.add(chunk)
            except Exception:
                self._give_up()

    def keep(self, keep: Callable[[Any], None]) -> None:
        """Call `keep` with the whole, if there is one."""
        try:
            value = self._whole and self._whole.value()
        except NoWhole:
            self._whole = None
        except Exception:
            self._give_up()
        if self._whole is not None:
            keep(value)

    def _give_up(self) -> None:
        logger.warning("the chunks of a stream do not add up: its run has no output", exc_info=True)
        self._whole = None
