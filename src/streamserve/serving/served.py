"""The runnable that LangServe sees: the declared chain with its schemas and the caller's keyword arguments."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from functools import cached_property
from typing import Any, Self, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.config import merge_configs
from langchain_core.runnables.utils import ConfigurableFieldSpec
from langgraph.pregel import Pregel

from streamserve.call import Call, current_call
from streamserve.catalog.chain import StreamMode
from streamserve.events.compact import compact_events
from streamserve.events.protocol import open_events
from streamserve.graphs import graph as graphs
from streamserve.graphs import input as graph_input
from streamserve.graphs import modes
from streamserve.graphs.progress import at_latest_checkpoint, progress_of, with_run_id
from streamserve.graphs.thread_heads import starting_config
from streamserve.lcel.fast_chain import bound_config, fast, stream_in_own_task
from streamserve.lcel.plans import plan_of
from streamserve.lcel.traced_stream import close
from streamserve.lcel.whole import Kept, Plan, Streamed
from streamserve.serving.at_once import at_once, has_own_batch
from streamserve.serving.config_keys import ConfigKeys
from streamserve.serving.histories import History, histories_in, without_defaults
from streamserve.serving.served_schemas import ServedSchemas
from streamserve.user import as_user
from streamserve.wire.serializer import keep_output, keep_output_if_json

# What makes events of version 2 from `astream`.
_FROM_ASTREAM = (Runnable.astream_events, BaseChatModel.astream_events, Pregel.astream_events)


class ServedRunnable(ServedSchemas):
    """A binding around the declared chain, which runs unchanged."""

    def model_post_init(self, context: Any) -> None:
        """Compute the properties that every request reads."""
        super().model_post_init(context)
        _ = self._fast, self.graph, self._is_configurable
        _ = None if self._is_configurable else self._plan

    @cached_property
    def _fast(self) -> Runnable[Any, Any]:
        return fast(self.bound)

    def with_config(self, config: RunnableConfig | None = None, **kwargs: Any) -> Self:
        """As upstream, with `served`. LangServe uses the result for schemas only, which few configs change."""
        if not self._is_configurable:
            return self
        return self.model_copy(update={"config": bound_config(self, config, RunnableConfig(**kwargs))})  # type: ignore[typeddict-item]

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """The chain's configurable fields; a graph also has its thread and checkpoint."""
        return [*self.bound.config_specs, *(graphs.CONFIG_SPECS if self.graph else ())]

    @cached_property
    def config_keys(self) -> ConfigKeys:
        """The keys of a config that the chain knows."""
        ids = {"thread_id"} if self.graph else set()
        ids |= {key for history in self.histories for key in history.keys}
        chain, configurable = self.served.chain, {spec.id for spec in self.config_specs}
        return ConfigKeys(self.bound, configurable, chain.configurable, ids, chain.config_keys)

    @cached_property
    def shows_steps(self) -> bool:
        """True if the record lets callers see the steps of the chain in logs and events."""
        names = self.served.chain.stream_log_name_allow_list
        config = getattr(self.bound, "config", None) or {}
        return names is None or (config.get("run_name") or self.bound.get_name()) in names

    @cached_property
    def histories(self) -> list[History]:
        """The histories in the chain, whose sessions a request must name."""
        return histories_in(self.bound)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """As the chain; the call notes the phase of a failure."""
        asked = self._asked()
        with _in_chain():
            async with self._begun(input, config) as own:
                return await self._fast.ainvoke(input, own, **{**self.kwargs, **asked, **kwargs})

    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """As the chain, at most as many at once as the call has places; exceptions are results if the request asks."""
        asked, call = self._asked(), current_call.get()
        wanted = bool(asked.pop("return_exceptions", return_exceptions))
        configs = config if isinstance(config, list) else [config or {} for _ in inputs]

        async def one(index: int) -> Any:
            try:
                async with self._begun(inputs[index], configs[index], index) as own:
                    return await self._fast.ainvoke(inputs[index], own, **{**self.kwargs, **asked, **kwargs})
            except Exception as error:
                if not wanted:
                    raise
                return error

        with _in_chain():
            if self.graph is None and (call is None or call.places is None) and has_own_batch(self.bound):
                own = [cast(RunnableConfig, self._config(each, index)) for index, each in enumerate(configs)]
                return await super().abatch(inputs, own, return_exceptions=wanted, **asked, **kwargs)
            # A place is for one item, and a step's own batch knows no places.
            asked_for = (self._config(configs[0]) or {}).get("max_concurrency") if configs else None
            return await at_once((call.places if call else None, asked_for), one, len(inputs))

    async def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        """As the chain; a graph streams in the modes of the request.

        Args:
            kwargs: beside the chain's arguments, `in_blocks`: whether the chunks are the run's blocks, of which the
                output can be made later (default true); and `changes`: takes the changes that led to each chunk, if
                the chain tells them.
        """
        in_blocks, changes = kwargs.pop("in_blocks", True), kwargs.pop("changes", None)
        keep = keep_output if in_blocks else keep_output_if_json
        call = current_call.get() or Call()
        call.phase, call.task = "chain", asyncio.current_task()
        if (graph := self.graph) is not None:
            arguments = {**self._default_modes(graph), **kwargs, **call.kwargs}
            async with self._begun(input, config) as own:
                async for chunk in modes.astream(graph, input, own, arguments, keep):
                    yield chunk
            return
        own = self._own_config(config)
        whole = self._whole(own, in_blocks)
        arguments = {**self.kwargs, **kwargs}
        stream = stream_in_own_task(self._fast, input, own, changes=changes, **arguments)
        try:
            async for chunk in stream:
                if whole is not None:
                    whole.add(chunk)
                yield chunk
        finally:
            await close(stream)
        if whole is not None:
            whole.keep(keep)

    def _whole(self, config: RunnableConfig, in_blocks: bool) -> Kept | None:
        """Return what keeps the whole of the chain's own stream; None: it is merged from the blocks on request."""
        plan = plan_of(self.bound, config) if self._is_configurable else self._plan
        return None if in_blocks and plan is Streamed else Kept(plan())

    @cached_property
    def _plan(self) -> Plan:
        return plan_of(self.bound, {})

    async def continued(self, input: Any, config: RunnableConfig) -> AsyncIterator[Any]:
        """Stream a graph's run whose worker died: from its last checkpoint, or else from its input."""
        call, graph = current_call.get() or Call(), self.graph
        assert graph is not None
        call.phase, call.task = "chain", asyncio.current_task()
        own = at_latest_checkpoint(self._own_config(config))
        found = await progress_of(graph, own, call.run_id, call.kwargs)
        if found is None:
            stream = self.astream(input, config)
        else:  # it has had the lock already
            arguments = {**self._default_modes(graph), **call.kwargs}
            stream = modes.astream(cast(graphs.Graph, found), None, own, arguments, keep_output)
        async with aclosing(cast(AsyncGenerator[Any], stream)) as chunks:
            async for chunk in chunks:
                yield chunk

    def astream_log(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """As upstream."""
        return super().astream_log(input, config, in_blocks=False, **kwargs)

    def astream_events(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """As the chain; a graph with the arguments of the request. Version 3 is in its compact form."""
        call = current_call.get() or Call()
        if call.events == "v3" or _has_own_events(self.bound):
            return self._own_events(call, input, config, kwargs)
        if self.graph is not None:
            kwargs["stream_mode"] = self.graph.stream_mode
        # Not the binding's, which would pass by `astream`.
        return Runnable.astream_events(self, input, config, in_blocks=False, **kwargs)

    async def _own_events(
        self, call: Call, input: Any, config: RunnableConfig | None, filters: dict[str, Any]
    ) -> AsyncIterator[Any]:
        call.phase, call.task = "chain", asyncio.current_task()
        async with self._begun(input, config) as own:
            if call.events == "v3":
                modes = self.served.chain.stream_modes
                source = await open_events(self.bound, input, own, modes, keep_output_if_json, **self._asked())
                events = compact_events(source)
            else:
                events = self._fast.astream_events(input, own, **self._asked(), **filters)
            async with aclosing(events):
                async for event in events:
                    yield event

    def _asked(self) -> dict[str, Any]:
        call = current_call.get()
        return dict(call.kwargs) if call else {}

    @asynccontextmanager
    async def _begun(self, input: Any, config: RunnableConfig | None, index: int = 0) -> AsyncIterator[RunnableConfig]:
        """Yield the whole config of one run, once it has the lock of its thread."""
        call, graph = current_call.get(), self.graph
        own = self._own_config(config, index)
        if call is None or graph is None:
            yield own
            return
        thread_id = ((config or {}).get("configurable") or {}).get("thread_id")
        if self.served.chain.multitask_strategy == "rollback":
            own = cast(RunnableConfig, with_run_id(own, str(own.get("run_id"))))
        given = graph_input.given(graph, self.served.chain, input, call.input_place(index))
        async with starting_config(graph, call.lock, thread_id, own, given) as placed:
            yield placed

    def _own_config(self, config: RunnableConfig | None, index: int = 0) -> RunnableConfig:
        config = self._config(config, index)
        return bound_config(self, config) if self.config or self.config_factories else config or {}

    def _config(self, config: RunnableConfig | None, index: int = 0) -> RunnableConfig | None:
        """Return a config with the keys that LangServe dropped and the caller; for a graph, without LangServe's own."""
        call = current_call.get()
        if config is None or call is None:
            return config
        asked = call.configs[index if len(call.configs) > 1 else 0] if call.configs else RunnableConfig()
        own = config if self.graph is None else graphs.as_sent(config)
        own = merge_configs(own, self.config_keys.beside(asked)) if asked else own
        return as_user(without_defaults(self.histories, own, asked) if self.histories else own, call.user)

    def _default_modes(self, graph: graphs.Graph) -> dict[str, StreamMode]:
        return {} if graphs.keeps_messages(graph) else {"stream_mode": self.served.chain.stream_modes[0]}


def _has_own_events(chain: Runnable[Any, Any]) -> bool:
    """Return whether the events of a chain do not come from its `astream`, as those of a chain on another server."""
    while isinstance(chain, RunnableBindingBase):
        chain = chain.bound
    return type(chain).astream_events not in _FROM_ASTREAM


@contextmanager
def _in_chain() -> Iterator[None]:
    call = current_call.get() or Call()
    call.phase = "chain"
    yield
    call.phase = "output"
