"""The keys of threads: savers keep each thread under a key made of chain, principal and the caller's thread id.

Every access to a thread goes through `ThreadKeys`: a thread exists only for its own principal, while nodes and streams
show the caller's thread id.
"""

import asyncio
import copy
import hashlib
import inspect
import json
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from typing import Any, Self

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
from streamserve.user import without_user

Saver = BaseCheckpointSaver[Any]
Writes = Sequence[tuple[str, Any]]


def thread_key(chain: str, principal: str, thread_id: str) -> str:
    """Return the key of a thread, which is unique to chain, principal and thread id."""
    # A digest: an id may be too long for an index, or have characters that a database refuses.
    whole = json.dumps([chain, principal, thread_id])
    return f"{chain}/{hashlib.sha256(whole.encode()).hexdigest()}"


class ThreadKeys(BaseCheckpointSaver[Any]):
    """A saver that passes every call to another saver, with the thread's key in place of the caller's thread id.

    The asynchronous writes of a recoverable run raise Fenced once the run has another owner. Each read or write of a
    checkpoint, which may hold thousands of messages, takes a turn of the event loop for itself.
    """

    def __init__(self, saver: Saver) -> None:
        self.saver = saver

    @property
    def serde(self) -> Any:  # type: ignore[override]
        return self.saver.serde

    @property
    def config_specs(self) -> list[Any]:
        return self.saver.config_specs

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> Self:
        clone = copy.copy(self)
        clone.saver = self.saver.with_allowlist(extra_allowlist)
        return clone

    def get_next_version(self, current: Any, channel: None) -> Any:
        return self.saver.get_next_version(current, channel)

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return _found(self.saver.get_tuple(_keyed(config)), config)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        await asyncio.sleep(0)
        found = _found(await self.saver.aget_tuple(_keyed(config)), config)
        await asyncio.sleep(0)
        return found

    def list(
        self, config: RunnableConfig | None, *, before: RunnableConfig | None = None, **options: Any
    ) -> Iterator[CheckpointTuple]:
        of_thread = _require_thread(config)
        for found in self.saver.list(_keyed(of_thread), before=before and _keyed(before), **options):
            yield _renamed(found, of_thread)

    async def alist(
        self, config: RunnableConfig | None, *, before: RunnableConfig | None = None, **options: Any
    ) -> AsyncIterator[CheckpointTuple]:
        of_thread = _require_thread(config)
        async for found in self.saver.alist(_keyed(of_thread), before=before and _keyed(before), **options):
            yield _renamed(found, of_thread)

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        return _restored(self.saver.put(_keyed(config), checkpoint, metadata, new_versions), config)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        await _require_ownership()
        await asyncio.sleep(0)
        return _restored(await self.saver.aput(_keyed(config), checkpoint, metadata, new_versions), config)

    def put_writes(self, config: RunnableConfig, writes: Writes, task_id: str, task_path: str = "") -> None:
        self.saver.put_writes(_keyed(config), writes, task_id, *_path(self.saver.put_writes, task_path))

    async def aput_writes(self, config: RunnableConfig, writes: Writes, task_id: str, task_path: str = "") -> None:
        await _require_ownership()
        await asyncio.sleep(0)
        await self.saver.aput_writes(_keyed(config), writes, task_id, *_path(self.saver.aput_writes, task_path))

    def delete_thread(self, thread_id: str) -> None:
        self.saver.delete_thread(_key(thread_id))

    async def adelete_thread(self, thread_id: str) -> None:
        await self.saver.adelete_thread(_key(thread_id))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        self.saver.copy_thread(_key(source_thread_id), _key(target_thread_id))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        await self.saver.acopy_thread(_key(source_thread_id), _key(target_thread_id))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        self.saver.prune([_key(name) for name in thread_ids], strategy=strategy)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        await self.saver.aprune([_key(name) for name in thread_ids], strategy=strategy)

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        return self.saver.get_delta_channel_history(config=_keyed(config), channels=channels)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        return await self.saver.aget_delta_channel_history(config=_keyed(config), channels=channels)


async def _require_ownership() -> None:
    # A frozen worker that wakes up would write to the thread beside the owner that recovered its run.
    if (call := current_call.get()) and call.guard is not None:
        await call.guard()


def _key(thread_id: str) -> str:
    call = current_call.get()
    if call is None or call.principal is None:
        raise RuntimeError("A thread was accessed outside of a request, without a principal")
    return thread_key(call.chain, call.principal, str(thread_id))


def _require_thread(config: RunnableConfig | None) -> RunnableConfig:
    if config is None:
        raise RuntimeError("The checkpoints of all threads cannot be listed: a principal may list its own threads only")
    return config


def _with_thread_id(config: RunnableConfig, thread_id: str) -> RunnableConfig:
    return {**config, "configurable": {**config["configurable"], "thread_id": thread_id}}


def _keyed(config: RunnableConfig) -> RunnableConfig:
    # A `before` may name only a checkpoint.
    thread_id = config["configurable"].get("thread_id")
    if thread_id is None:
        return config
    # Savers copy the other keys into the metadata of each checkpoint.
    return {**config, "configurable": {**without_user(config["configurable"]), "thread_id": _key(thread_id)}}


def _restored(config: RunnableConfig, original: RunnableConfig) -> RunnableConfig:
    return _with_thread_id(config, original["configurable"]["thread_id"])


def _found(found: CheckpointTuple | None, original: RunnableConfig) -> CheckpointTuple | None:
    return None if found is None else _renamed(found, original)


def _renamed(found: CheckpointTuple, original: RunnableConfig) -> CheckpointTuple:
    parent = found.parent_config and _restored(found.parent_config, original)
    return found._replace(config=_restored(found.config, original), parent_config=parent)


def _path(put_writes: Any, task_path: str) -> tuple[str, ...]:
    # Savers made for LangGraph before 0.3 do not take it.
    return (task_path,) if "task_path" in inspect.signature(put_writes).parameters else ()
