"""Whose thread it is: the savers keep each thread under a key made of chain, principal and the caller's name for it.

Whatever asks for a thread asks through `ThreadKeys`, so one principal's thread does not exist for another one, and
nodes and streams show the names that their caller gave.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)

from streamserve.call import current_call

Saver = BaseCheckpointSaver[Any]
Writes = Sequence[tuple[str, Any]]


def thread_key(chain: str, principal: str, thread_id: str) -> str:
    """The name under which a thread is kept; no two threads share one.

    Args:
        chain: the chain's name.
        principal: who asks.
        thread_id: as the caller names it.
    """
    # A digest: names may be longer than an index takes, or have characters that a database refuses.
    whole = json.dumps([chain, principal, thread_id])
    return f"{chain}/{hashlib.sha256(whole.encode()).hexdigest()}"


class ThreadKeys(BaseCheckpointSaver[Any]):
    """A saver that knows threads by their keys.

    Args:
        saver: keeps them; may be replaced.
    """

    def __init__(self, saver: Saver) -> None:
        self.saver = saver

    @property
    def serde(self) -> Any:  # type: ignore[override]
        """That of the saver."""
        return self.saver.serde

    @property
    def config_specs(self) -> list[Any]:
        """Those of the saver."""
        return self.saver.config_specs

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> ThreadKeys:
        """The same around the saver's clone."""
        clone = copy.copy(self)
        clone.saver = self.saver.with_allowlist(extra_allowlist)
        return clone

    def get_next_version(self, current: Any, channel: None) -> Any:
        """As the saver."""
        return self.saver.get_next_version(current, channel)

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As the saver."""
        return _shown(self.saver.get_tuple(_kept(config)), config)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As the saver."""
        return _shown(await self.saver.aget_tuple(_kept(config)), config)

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """As the saver, of one thread."""
        of_thread = _required(config)
        options = {"filter": filter, "before": before and _kept(before), "limit": limit}
        for found in self.saver.list(_kept(of_thread), **options):  # type: ignore[arg-type]
            yield _renamed(found, of_thread)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """As the saver, of one thread."""
        of_thread = _required(config)
        options = {"filter": filter, "before": before and _kept(before), "limit": limit}
        async for found in self.saver.alist(_kept(of_thread), **options):  # type: ignore[arg-type]
            yield _renamed(found, of_thread)

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """As the saver."""
        return _back(self.saver.put(_kept(config), checkpoint, metadata, new_versions), config)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """As the saver, as long as the run is this worker's."""
        await _guard()
        return _back(await self.saver.aput(_kept(config), checkpoint, metadata, new_versions), config)

    def put_writes(self, config: RunnableConfig, writes: Writes, task_id: str, task_path: str = "") -> None:
        """As the saver."""
        self.saver.put_writes(_kept(config), writes, task_id, *_path(self.saver.put_writes, task_path))

    async def aput_writes(self, config: RunnableConfig, writes: Writes, task_id: str, task_path: str = "") -> None:
        """As the saver, as long as the run is this worker's."""
        await _guard()
        await self.saver.aput_writes(_kept(config), writes, task_id, *_path(self.saver.aput_writes, task_path))

    def delete_thread(self, thread_id: str) -> None:
        """As the saver."""
        self.saver.delete_thread(_key(thread_id))

    async def adelete_thread(self, thread_id: str) -> None:
        """As the saver."""
        await self.saver.adelete_thread(_key(thread_id))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """As the saver."""
        self.saver.copy_thread(_key(source_thread_id), _key(target_thread_id))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """As the saver."""
        await self.saver.acopy_thread(_key(source_thread_id), _key(target_thread_id))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """As the saver."""
        self.saver.prune([_key(name) for name in thread_ids], strategy=strategy)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """As the saver."""
        await self.saver.aprune([_key(name) for name in thread_ids], strategy=strategy)

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """As the saver."""
        return self.saver.get_delta_channel_history(config=_kept(config), channels=channels)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """As the saver."""
        return await self.saver.aget_delta_channel_history(config=_kept(config), channels=channels)


async def _guard() -> None:
    # A worker that was frozen and wakes would move the thread on beside the one that recovered its run.
    if (call := current_call.get()) and call.guard is not None:
        await call.guard()


def _key(thread_id: str) -> str:
    call = current_call.get()
    if call is None or call.principal is None:
        raise RuntimeError("A thread is asked for outside of a request: nobody knows whose it is")
    return thread_key(call.chain, call.principal, str(thread_id))


def _required(config: RunnableConfig | None) -> RunnableConfig:
    if config is None:
        raise RuntimeError("The checkpoints of all threads are nobody's to list")
    return config


def _named(config: RunnableConfig, thread_id: str) -> RunnableConfig:
    return {**config, "configurable": {**config["configurable"], "thread_id": thread_id}}


def _kept(config: RunnableConfig) -> RunnableConfig:
    # A `before` may name a checkpoint only.
    thread_id = config["configurable"].get("thread_id")
    return config if thread_id is None else _named(config, _key(thread_id))


def _back(config: RunnableConfig, asked: RunnableConfig) -> RunnableConfig:
    return _named(config, asked["configurable"]["thread_id"])


def _shown(found: CheckpointTuple | None, asked: RunnableConfig) -> CheckpointTuple | None:
    return None if found is None else _renamed(found, asked)


def _renamed(found: CheckpointTuple, asked: RunnableConfig) -> CheckpointTuple:
    parent = found.parent_config and _back(found.parent_config, asked)
    return found._replace(config=_back(found.config, asked), parent_config=parent)


def _path(put_writes: Any, task_path: str) -> tuple[str, ...]:
    # Savers of before LangGraph 0.3 do not take it.
    return (task_path,) if "task_path" in inspect.signature(put_writes).parameters else ()
