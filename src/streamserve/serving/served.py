"""The runnable that LangServe sees: the declared chain with its schemas and the caller's keyword arguments."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from functools import cached_property
from typing import Any, Self, cast

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.config import merge_configs
from langchain_core.runnables.utils import ConfigurableFieldSpec
from langgraph.pregel import Pregel
from pydantic import BaseModel, PrivateAttr, PydanticUserError

from streamserve.call import Call, current_call
from streamserve.catalog.chain import StreamMode
from streamserve.catalog.registry import RegisteredChain
from streamserve.catalog.schemas import mended, with_enums, with_examples
from streamserve.catalog.substitutes import Direction, substitute
from streamserve.catalog.widening import with_messages
from streamserve.events.compact import compact_events
from streamserve.events.protocol import open_events
from streamserve.graphs import graph as graphs
from streamserve.graphs import input as graph_input
from streamserve.graphs import modes
from streamserve.graphs.progress import at_latest_checkpoint, progress_of, with_run_id
from streamserve.graphs.thread_heads import starting_config
from streamserve.lcel.fast_chain import RunnableSequence, bound_config, fast
from streamserve.lcel.plans import plan_of
from streamserve.lcel.traced_stream import close
from streamserve.lcel.whole import Kept, Plan, Streamed
from streamserve.serving.at_once import at_once, has_own_batch
from streamserve.serving.config_keys import ConfigKeys
from streamserve.serving.histories import History, histories_in, without_defaults
from streamserve.user import as_user
from streamserve.wire.serializer import keep_output


class ServedRunnable(RunnableBindingBase[Any, Any]):
    """A binding around the declared chain, which runs unchanged."""

    served: RegisteredChain
    _schemas: dict[str, type[BaseModel]] = PrivateAttr(default_factory=dict)
    _substitutes: dict[str, type[BaseModel]] = PrivateAttr(default_factory=dict)

    def model_post_init(self, _context: Any) -> None:
        """Compute the properties that every request reads."""
        self._substitute("input", self.custom_input_type)
        self._substitute("output", self.custom_output_type)
        _ = self._streamed, self.graph, self._is_configurable
        _ = None if self._is_configurable else self._plan

    @cached_property
    def _streamed(self) -> Runnable[Any, Any]:
        return fast(self.bound)

    def _substitute(self, direction: Direction, declared: Any) -> None:
        try:
            getattr(super(), f"get_{direction}_schema")().model_json_schema()
        except PydanticUserError:
            if declared is not None:
                raise
            self._substitutes[direction] = substitute(self.bound, direction)

    def with_config(self, config: RunnableConfig | None = None, **kwargs: Any) -> Self:
        """As upstream, with `served`. LangServe uses the result for schemas only, which few configs change."""
        if not self._is_configurable:
            return self
        return self.model_copy(update={"config": bound_config(self, config, RunnableConfig(**kwargs))})  # type: ignore[typeddict-item]

    @cached_property
    def _is_configurable(self) -> bool:
        # The fields take 8 % of a short request to find.
        return bool(self.bound.config_specs)

    @cached_property
    def graph(self) -> graphs.Graph | None:
        """The graph, or None if the chain is not a graph."""
        return self.bound if isinstance(self.bound, Pregel) else None

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """The chain's configurable fields; a graph also has its thread and checkpoint."""
        return [*self.bound.config_specs, *(graphs.CONFIG_SPECS if self.graph else ())]

    @cached_property
    def config_keys(self) -> ConfigKeys:
        """The keys of a config that the chain knows."""
        ids = {"thread_id"} if self.graph else set()
        ids |= {key for history in self.histories for key in history.keys}
        return ConfigKeys(self.bound, {spec.id for spec in self.config_specs}, self.served.chain.configurable, ids)

    @cached_property
    def histories(self) -> list[History]:
        """The histories in the chain, whose sessions a request must name."""
        return histories_in(self.bound)

    def get_input_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:
        """Return the chain's input schema with the declared examples, which the playground shows as defaults."""
        return self._schema("input", lambda: self._make_input_schema(config))

    @property
    def input_schema(self) -> type[BaseModel]:
        """The schema of requests: messages in any form, and for a graph also None and commands."""
        return self._schema("request", self._make_request_schema)

    @cached_property
    def config_model(self) -> type[BaseModel]:
        """The schema of a request's config: its configurable fields."""
        return self.config_schema(include=["configurable"])

    @property
    def request_schemas(self) -> tuple[type[BaseModel], type[BaseModel]]:
        """The schemas of one input and of one config, which tell the places of errors."""
        return self.input_schema, self.config_model

    def get_output_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:
        """Return the chain's output schema in the form that the chat playground understands."""
        return self._schema("output", lambda: self._make_output_schema(config))

    def _schema(self, name: str, make: Callable[[], type[BaseModel]]) -> type[BaseModel]:
        # Every request needs one, and making it takes milliseconds; only a configurable chain's can differ.
        if self._is_configurable:
            return make()
        schemas = self._schemas
        if name not in schemas:
            schemas[name] = make()
        return schemas[name]

    def _make_request_schema(self) -> type[BaseModel]:
        schema = self.get_input_schema()
        if self.graph is not None:
            return graph_input.input_model(schema, self.graph)
        return cast(type[BaseModel], with_messages(schema, in_graph=False))

    def _make_input_schema(self, config: RunnableConfig | None) -> type[BaseModel]:
        schema = mended(self._substitutes.get("input") or cast(type[BaseModel], super().get_input_schema(config)))
        return with_examples(schema, self.served) if self.served.chain.examples else schema

    @cached_property
    def declared_output(self) -> type[BaseModel] | None:
        """The output type that the record declares; None: outputs are not checked."""
        declared = self.custom_output_type is not None
        return cast(type[BaseModel], super().get_output_schema()) if declared else None

    def _make_output_schema(self, config: RunnableConfig | None) -> type[BaseModel]:
        schema = self._substitutes.get("output") or cast(type[BaseModel], super().get_output_schema(config))
        return with_enums(schema, self.served.name)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """As the chain; the call notes the phase of a failure."""
        asked = self._asked()
        with _in_chain():
            async with self._begun(input, config) as own:
                return await super().ainvoke(input, own, **asked, **kwargs)

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
                    return await self.bound.ainvoke(inputs[index], own, **asked, **kwargs)
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
        """As the chain; a graph streams in the modes of the request."""
        call = current_call.get() or Call()
        call.phase, call.task = "chain", asyncio.current_task()
        if (graph := self.graph) is not None:
            arguments = {**self._default_modes(graph), **call.kwargs}
            async with self._begun(input, config) as own:
                async for chunk in modes.astream(graph, input, own, arguments, keep_output):
                    yield chunk
            return
        own = self._own_config(config)
        whole = self._whole(own)
        stream = self._stream(input, own, {**self.kwargs, **kwargs})
        try:
            async for chunk in stream:
                if whole is not None:
                    whole.add(chunk)
                yield chunk
        finally:
            await close(stream)
        if whole is not None:
            whole.keep(keep_output)

    def _whole(self, config: RunnableConfig) -> Kept | None:
        """Return what keeps the whole of the chain's own stream; None: it is merged from the blocks on request."""
        plan = plan_of(self.bound, config) if self._is_configurable else self._plan
        return None if plan is Streamed else Kept(plan())

    @cached_property
    def _plan(self) -> Plan:
        return plan_of(self.bound, {})

    def _stream(self, input: Any, config: RunnableConfig, kwargs: dict[str, Any]) -> AsyncIterator[Any]:
        chain = self._streamed
        if type(chain) is RunnableSequence:  # in the task of a run, whose context is its own
            return chain.astream_in_own_task(input, config, **kwargs)
        return chain.astream(input, config, **kwargs)

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

    async def astream_events(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """As the chain; a graph with the arguments of the request. Version 3 is in its compact form."""
        call = current_call.get() or Call()
        async with self._begun(input, config) as own:
            if call.events == "v3":
                call.phase, call.task = "chain", asyncio.current_task()
                modes = self.served.chain.stream_modes
                events = compact_events(await open_events(self.bound, input, own, modes, **self._asked()))
            else:
                kwargs["version"] = call.events
                call.expects_task = True  # LangChain streams in a task, and drops a CancelledError of it
                events = self._streamed.astream_events(input, own, **self._asked(), **kwargs)
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


@contextmanager
def _in_chain() -> Iterator[None]:
    call = current_call.get() or Call()
    call.phase = "chain"
    yield
    call.phase = "output"
