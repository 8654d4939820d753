"""The chain to stream in place of a declared one: the same steps and runs with less work per chunk.

Sequences, bindings, maps, branches, fallbacks and the parsers of texts, JSON and tool calls are rebuilt; other steps
stream as they always do. The classes have upstream's names, because runs are named after them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from functools import cache, partial
from typing import Any, Self, cast

from langchain_core import output_parsers
from langchain_core.callbacks import AsyncCallbackManager, AsyncCallbackManagerForChainRun
from langchain_core.runnables import (
    Runnable,
    RunnableAssign,
    RunnableBranch,
    RunnableConfig,
    RunnableParallel,
    RunnableWithFallbacks,
    base,
)
from langchain_core.runnables.config import (
    ensure_config,
    merge_configs,
    patch_config,
    set_config_context,
    var_child_runnable_config,
)
from langchain_core.runnables.configurable import (
    DynamicRunnable,
    RunnableConfigurableAlternatives,
    RunnableConfigurableFields,
)
from pydantic import PrivateAttr

from streamserve.lcel.handlers import stand_in
from streamserve.lcel.readings import Changes
from streamserve.lcel.self_check import Pieces, passed
from streamserve.lcel.silent_calls import SilentCall, answer, below, bound_call, called, parser_call, silent_call
from streamserve.lcel.silent_steps import Silent, once, silent, with_fallbacks
from streamserve.lcel.structured import PARSERS, silent_parser, tells_changes
from streamserve.lcel.text_parser import StrOutputParser
from streamserve.lcel.traced_stream import Stream, close, is_observed, start_run, stream_whole, traced
from streamserve.private_names.langchain_core import ModelBinding

_CONFIGURABLE = (RunnableConfigurableAlternatives, RunnableConfigurableFields)
_NONE: Mapping[str, Any] = {}


def fast(chain: Runnable[Any, Any]) -> Runnable[Any, Any]:
    """Return the runnable to stream in place of a chain: its streams and its runs are the same.

    Args:
        chain: the declared chain, which stays as it is; a step exchanged in it later has no effect.
    """
    return rebuilt(chain, pieces())


@cache
def pieces() -> Pieces:
    """Return the pieces that stream as the installed langchain-core does; the first call of a process checks it."""
    return passed(rebuilt)


def stream_in_own_task(
    chain: Runnable[Any, Any], input: Any, config: RunnableConfig, *, changes: Changes | None = None, **kwargs: Any
) -> AsyncIterator[Any]:
    """Stream a chain of `fast` for a caller that iterates it in a task of its own: the context may change.

    Args:
        chain: the chain.
        input: its input.
        config: its config.
        changes: as in `RunnableSequence.astream_in_own_task`.
        kwargs: its arguments.
    """
    while type(chain) is RunnableBinding and not chain.config_factories:
        config, kwargs = bound_config(chain, config), {**chain.kwargs, **kwargs}
        chain = chain.bound
    if type(chain) is RunnableSequence:
        return chain.astream_in_own_task(input, config, changes=changes, **kwargs)
    return chain.astream(input, config, **kwargs)


def rebuilt(chain: Runnable[Any, Any], on: Pieces) -> Runnable[Any, Any]:
    """Return a chain with the given pieces rewritten."""
    rebuild = _REBUILDS.get(type(chain)) if on else None
    return rebuild(chain, on) if rebuild else chain


class RunnableSequence(base.RunnableSequence[Any, Any]):
    """A sequence without a task per item, and without runs for steps whose runs only a handler could see."""

    # How each step streams without a run, None for a step that needs one.
    _silent: list[Silent | None] = PrivateAttr(default_factory=list)
    # Whether the last step can tell the changes that led to each chunk.
    _tells_changes: bool = PrivateAttr(default=False)

    # How each step is called without a run, None for a step that needs one; empty: all are called as upstream.
    _calls: list[SilentCall | None] = PrivateAttr(default_factory=list)
    # What is done with the run of a stream before its steps begin.
    _prepare: Callable[[AsyncCallbackManagerForChainRun], None] | None = PrivateAttr(default=None)

    def with_silent_steps(self, on: Pieces) -> Self:
        """Return this sequence, in which steps now work without a run if these pieces allow it."""
        self._silent = [_silent(step, on) for step in self.steps]
        self._prepare = stand_in if "handlers" in on else None
        calls = [_silent_call(step) for step in self.steps] if "call" in on else []
        self._calls = calls if any(calls) else []
        self._tells_changes = tells_changes(self.last)
        return self

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        own = ensure_config(config)
        if not self._calls or is_observed(AsyncCallbackManager.configure(own.get("callbacks"))):
            return await super().ainvoke(input, config, **kwargs)
        answer = self.answer_without_runs(input, own, **kwargs)
        return await (self._answer_in_run(input, own, kwargs) if answer is None else answer)

    def answer_without_runs(self, input: Any, config: RunnableConfig, **kwargs: Any) -> Coroutine[Any, Any, Any] | None:
        """Return the answer of an unobserved call without any run, yet to be awaited; None: a step needs a run."""
        if not self._calls or not all(call is not None and call.is_possible() for call in self._calls):
            return None
        return answer(cast("list[SilentCall]", self._calls), input, config, kwargs)

    async def _answer_in_run(self, value: Any, config: RunnableConfig, kwargs: dict[str, Any]) -> Any:
        run = await start_run(self, config)
        for number, (step, call) in enumerate(zip(self.steps, self._calls, strict=True), 1):
            config = patch_config(config, callbacks=run.get_child(f"seq:step:{number}"))
            if call is not None and call.is_possible():
                value = await called(call, value, kwargs, config, run.run_id)
            else:
                with set_config_context(config) as context:
                    value = await asyncio.create_task(step.ainvoke(value, config, **kwargs), context=context)
            kwargs = {}
        return value

    def atransform(self, input: Stream, config: RunnableConfig | None = None, **kwargs: Any) -> Stream:
        defers_inputs = kwargs.pop("defers_inputs", False)
        pipe = partial(self._pipe, kwargs)
        return traced(self, input, pipe, config, name=self.name, defers_inputs=defers_inputs, prepare=self._prepare)

    def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Stream:
        return self.atransform(once(input), config, **kwargs)

    def astream_in_own_task(
        self, input: Any, config: RunnableConfig, *, changes: Changes | None = None, **kwargs: Any
    ) -> Stream:
        """As `astream`, for a caller that iterates it in a task of its own: the context may change.

        Args:
            changes: takes the changes that led to each chunk, if the last step tells them; with them, a chunk may
                grow after it was yielded.
        """
        last = {"changes": changes} if changes is not None and self._tells_changes else {}
        stream = self.without_runs(input, config, last, **kwargs)
        if stream is not None:
            return stream
        pipe = partial(self._pipe, kwargs, last=last)
        return traced(self, once(input), pipe, config, name=self.name, in_own_task=True, prepare=self._prepare)

    def without_runs(
        self, input: Any, config: RunnableConfig, last: Mapping[str, Any] = _NONE, **kwargs: Any
    ) -> Stream | None:
        """Return the stream without any run, in the caller's context; None: it is observed, or a step needs a run.

        Args:
            last: the arguments of the last step.
        """
        if None in self._silent or config.get("callbacks"):
            return None
        if is_observed(AsyncCallbackManager.configure()):  # tags and metadata would be merged for no handler
            return None
        stream: Stream = once(input)
        for number, step in enumerate(cast("list[Silent]", self._silent), 1):
            following = step(stream, {**kwargs, **last} if number == len(self._silent) else kwargs, config)
            if following is None:
                return None
            stream, kwargs = following, {}
        var_child_runnable_config.set(below(config))
        return stream

    def _pipe(
        self,
        kwargs: dict[str, Any],
        inputs: Stream,
        run: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        last: Mapping[str, Any] = _NONE,
    ) -> Stream:
        observed = is_observed(run)
        for number, (step, silent_step) in enumerate(zip(self.steps, self._silent, strict=True), 1):
            kwargs = {**kwargs, **last} if number == len(self._silent) else kwargs
            stream = silent_step(inputs, kwargs, config) if silent_step is not None and not observed else None
            if stream is None:
                config = patch_config(config, callbacks=run.get_child(f"seq:step:{number}"))
                stream = _transform(step, inputs, config, kwargs)
            inputs, kwargs = stream, {}
        return inputs


class RunnableBinding(base.RunnableBinding[Any, Any]):
    """A binding that adds no step to a stream."""

    def atransform(self, input: Stream, config: RunnableConfig | None = None, **kwargs: Any) -> Stream:
        if self.config_factories:  # these are to be called when the stream starts
            return super().atransform(input, config, **kwargs)
        return _transform(self.bound, input, bound_config(self, config), {**self.kwargs, **kwargs})

    async def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        # The stream below is closed with its reader, unlike upstream.
        # A config is merged with its context's when the stream starts, which may be in another context.
        stream = self.bound.astream(input, bound_config(self, config), **{**self.kwargs, **kwargs})
        try:
            async for chunk in stream:
                yield chunk
        finally:
            await close(stream)


def _silent_call(step: Runnable[Any, Any]) -> SilentCall | None:
    if isinstance(step, base.RunnableBinding) and type(step) in (RunnableBinding, base.RunnableBinding, ModelBinding):
        return None if step.config or step.config_factories else bound_call(_silent_call(step.bound), step.kwargs)
    if type(step) in (StrOutputParser, output_parsers.StrOutputParser):
        return parser_call(cast(StrOutputParser, step))
    return silent_call(step)


def _silent(step: Runnable[Any, Any], on: Pieces) -> Silent | None:
    if type(step) is StrOutputParser:
        return step.texts
    if type(step) is RunnableBinding:
        inner = None if step.config or step.config_factories else _silent(step.bound, on)
        return inner and (lambda inputs, kwargs, config: inner(inputs, {**step.kwargs, **kwargs}, config))
    if type(step) is RunnableWithFallbacks and "fallbacks" in on:
        return with_fallbacks(step, [_silent(each, on) for each in step.runnables])
    if type(step) in _CONFIGURABLE and "configurable" in on:
        return partial(_stream_choice, cast(DynamicRunnable[Any, Any], step), on)
    return silent_parser(step) or silent(step, on)


def _stream_choice(
    step: DynamicRunnable[Any, Any], on: Pieces, inputs: Stream, kwargs: dict[str, Any], config: RunnableConfig
) -> Stream | None:
    if step.config:  # the steps below would have it
        return None
    chosen, _ = step.prepare(config)
    stream = _silent(rebuilt(chosen, on), on)
    return stream and stream(inputs, kwargs, config)


def bound_config(binding: base.RunnableBindingBase[Any, Any], *configs: RunnableConfig | None) -> RunnableConfig:
    """Return configs merged with that of a binding."""
    merged = merge_configs(binding.config, *configs)
    return merge_configs(merged, *(make(merged) for make in binding.config_factories))


def _transform(step: Runnable[Any, Any], inputs: Stream, config: RunnableConfig, kwargs: dict[str, Any]) -> Stream:
    if type(step).atransform is Runnable.atransform:
        return stream_whole(step, inputs, config, **kwargs)
    return step.atransform(inputs, config, **kwargs)


def _sequence(chain: base.RunnableSequence[Any, Any], on: Pieces) -> base.RunnableSequence[Any, Any]:
    kind: type[base.RunnableSequence[Any, Any]] = RunnableSequence if "sequence" in on else base.RunnableSequence
    first, *middle, last = [rebuilt(step, on) for step in chain.steps]
    made = kind(first=first, middle=middle, last=last, name=chain.name)
    return made.with_silent_steps(on) if isinstance(made, RunnableSequence) else made


def _binding(chain: base.RunnableBinding[Any, Any], on: Pieces) -> base.RunnableBinding[Any, Any]:
    kind = RunnableBinding if "binding" in on else base.RunnableBinding
    bound = rebuilt(chain.bound, on)
    return kind(bound=bound, kwargs=chain.kwargs, config=chain.config, config_factories=chain.config_factories)


def _parser(parser: output_parsers.StrOutputParser, on: Pieces) -> output_parsers.StrOutputParser:
    return StrOutputParser(name=parser.name) if "parser" in on else parser


# The contents of these are rebuilt, not they themselves.
def _parallel(chain: RunnableParallel[Any], on: Pieces) -> RunnableParallel[Any]:
    return chain.model_copy(update={"steps__": {name: rebuilt(step, on) for name, step in chain.steps__.items()}})


def _assign(chain: RunnableAssign, on: Pieces) -> RunnableAssign:
    return chain.model_copy(update={"mapper": rebuilt(chain.mapper, on)})


def _branch(chain: RunnableBranch[Any, Any], on: Pieces) -> RunnableBranch[Any, Any]:
    branches = [(condition, rebuilt(branch, on)) for condition, branch in chain.branches]
    return chain.model_copy(update={"branches": branches, "default": rebuilt(chain.default, on)})


def _fallbacks(chain: RunnableWithFallbacks[Any, Any], on: Pieces) -> RunnableWithFallbacks[Any, Any]:
    fallbacks = [rebuilt(fallback, on) for fallback in chain.fallbacks]
    return chain.model_copy(update={"runnable": rebuilt(chain.runnable, on), "fallbacks": fallbacks})


_REBUILDS: dict[type[Any], Callable[[Any, Pieces], Runnable[Any, Any]]] = {
    base.RunnableSequence: _sequence,
    base.RunnableBinding: _binding,
    **({ModelBinding: _binding} if ModelBinding else {}),
    RunnableParallel: _parallel,
    RunnableAssign: _assign,
    RunnableBranch: _branch,
    RunnableWithFallbacks: _fallbacks,
    output_parsers.StrOutputParser: _parser,
    **PARSERS,
}
