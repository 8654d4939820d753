"""LangGraph's saver in memory. States with many values are read and written in OS threads, aside of the event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata, CheckpointTuple
from langgraph.checkpoint.memory import InMemorySaver

from streamserve.http.body import off_loop

P = ParamSpec("P")
T = TypeVar("T")

# Values of one collection from which on work with it would delay other streams.
MANY = 200


class MemorySaver(InMemorySaver):
    """A saver in memory. Its calls for small states do not wait, as those of LangGraph's own."""

    def __init__(self) -> None:
        super().__init__()
        self._large: set[str] = set()

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        if config["configurable"]["thread_id"] not in self._large:
            return self.get_tuple(config)
        return await _to_its_end(_retried, lambda: self.get_tuple(config))

    async def alist(
        self, config: RunnableConfig | None, *, limit: int | None = None, **options: Any
    ) -> AsyncIterator[CheckpointTuple]:
        # Without a limit, a caller takes one after another, and may need only the first.
        if limit is None or config is None or config["configurable"]["thread_id"] not in self._large:
            for found in self.list(config, limit=limit, **options):
                yield found
            return
        for found in await _to_its_end(_retried, lambda: tuple(self.list(config, limit=limit, **options))):
            yield found

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        thread_id = config["configurable"]["thread_id"]
        if not _is_large(checkpoint["channel_values"]):
            self._large.discard(thread_id)
            return self.put(config, checkpoint, metadata, new_versions)
        self._large.add(thread_id)
        return await _to_its_end(self.put, config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        if _is_large([value for _, value in writes]):
            await _to_its_end(self.put_writes, config, writes, task_id, task_path)
        else:
            self.put_writes(config, writes, task_id, task_path)

    async def adelete_thread(self, thread_id: str) -> None:
        self._large.discard(thread_id)
        self.delete_thread(thread_id)


def _is_large(value: Any, depth: int = 2) -> bool:
    """Return whether a value, or one inside it, has many values."""
    if not isinstance(value, Collection) or isinstance(value, str | bytes | bytearray):
        return False
    if len(value) > MANY or not depth:
        return len(value) > MANY
    return any(_is_large(inner, depth - 1) for inner in (value.values() if isinstance(value, Mapping) else value))


def _retried(read: Callable[[], T]) -> T:
    while True:
        try:
            return read()
        except RuntimeError as error:  # a run of the thread has written meanwhile, or a subgraph has begun
            if "changed size" not in str(error):
                raise


async def _to_its_end(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do work in an OS thread. A cancelled caller waits for its end, because nothing may be stored after the run."""
    working = asyncio.ensure_future(off_loop(work, *args, **kwargs))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait([working])
        raise
