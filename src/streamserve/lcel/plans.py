"""Decide by the last step that makes chunks how the whole of a stream is made.

Bindings, branches, fallbacks and passthroughs are looked through. Other steps have chunks that add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any

from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.output_parsers import BaseCumulativeTransformOutputParser, StrOutputParser
from langchain_core.runnables import (
    RouterRunnable,
    Runnable,
    RunnableAssign,
    RunnableBranch,
    RunnableConfig,
    RunnableGenerator,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnablePick,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.config import merge_configs
from langchain_core.runnables.configurable import DynamicRunnable
from langchain_core.runnables.utils import is_async_generator
from langgraph.pregel import Pregel

from streamserve.lcel.whole import Alternatives, Branches, Last, Output, Patched, Plan, Streamed, Sum, Updates


def plan_of(chain: Runnable[Any, Any], config: RunnableConfig) -> Plan:
    """Return how the whole of a chain's stream is made of its chunks.

    Args:
        config: the config of the run, which may choose between alternatives.
    """
    return _plan(chain, Last, config)


def _plan(step: Runnable[Any, Any], before: Plan, config: RunnableConfig) -> Plan:
    make = next((make for kind, make in _KINDS.items() if isinstance(step, kind)), None)
    return make(step, before, config) if make else Output


def _sequence(chain: RunnableSequence[Any, Any], before: Plan, config: RunnableConfig) -> Plan:
    return reduce(lambda plan, step: _plan(step, plan, config), chain.steps, before)


def _binding(binding: RunnableBindingBase[Any, Any], before: Plan, config: RunnableConfig) -> Plan:
    return _plan(binding.bound, before, merge_configs(binding.config, config))


def _dynamic(step: DynamicRunnable[Any, Any], before: Plan, config: RunnableConfig) -> Plan:
    prepared, own = step.prepare(config)
    return _plan(prepared, before, own)


def _parallel(chain: RunnableParallel[Any], before: Plan, config: RunnableConfig) -> Branches:
    return Branches({key: _plan(step, before, config) for key, step in chain.steps__.items()})


def _assign(chain: RunnableAssign, before: Plan, config: RunnableConfig) -> Plan:
    return Branches(_parallel(chain.mapper, before, config).plans, before)


def _pick(step: RunnablePick, before: Plan, _config: RunnableConfig) -> Plan:
    if not isinstance(before, Branches):
        return before if before is Last else Output
    if isinstance(step.keys, str):
        return before.plans.get(step.keys) or _pick(step, before.rest or Last, _config)
    return before.pick(step.keys)


def _one_of(plans: Iterable[Plan]) -> Plan:
    found: list[Plan] = []
    maps: dict[frozenset[str], list[Branches]] = {}
    for plan in plans:
        for one in plan.plans if isinstance(plan, Alternatives) else (plan,):
            if isinstance(one, Branches):
                maps.setdefault(frozenset(one.plans), []).append(one)
            elif one not in found:
                found.append(one)
    found += map(_merged, maps.values())
    return found[0] if len(found) == 1 else Alternatives(tuple(found))


def _merged(maps: list[Branches]) -> Branches:
    """Return one plan for maps with the same keys."""
    if len(maps) == 1:
        return maps[0]
    rests = [each.rest for each in maps if each.rest is not None]
    return Branches(
        {key: _one_of(each.plans[key] for each in maps) for key in maps[0].plans}, _one_of(rests) if rests else None
    )


def _branch(chain: RunnableBranch[Any, Any], before: Plan, config: RunnableConfig) -> Plan:
    return _one_of(_plan(step, before, config) for step in (*(step for _, step in chain.branches), chain.default))


def _fallbacks(chain: RunnableWithFallbacks[Any, Any], before: Plan, config: RunnableConfig) -> Plan:
    return _one_of(_plan(step, before, config) for step in chain.runnables)


def _router(chain: RouterRunnable[Any], _before: Plan, config: RunnableConfig) -> Plan:
    return _one_of(plan_of(step, config) for step in chain.runnables.values())


def _function(step: RunnableLambda[Any, Any], _before: Plan, config: RunnableConfig) -> Plan:
    if is_async_generator(getattr(step, "afunc", None)):
        return Sum
    # A function may return a runnable, which then streams; langchain-core finds those that it refers to.
    return _one_of((*(plan_of(found, config) for found in step.deps), Output))


def _parser(parser: BaseCumulativeTransformOutputParser[Any], _before: Plan, _config: RunnableConfig) -> Plan:
    return Patched if parser.diff else Last


def _text(parser: StrOutputParser, _before: Plan, _config: RunnableConfig) -> Plan:
    return Streamed if type(parser) is StrOutputParser else Output


# The key of interrupts among the updates of a graph's nodes.
_INTERRUPT = "__interrupt__"


def _graph(graph: Pregel[Any, Any, Any, Any], _before: Plan, _config: RunnableConfig) -> Plan:
    return Last if graph.stream_mode == "values" else Updates(frozenset({*graph.nodes, _INTERRUPT}))


_Make = Callable[[Any, Plan, RunnableConfig], Plan]
_KINDS: dict[type[Any], _Make] = {
    DynamicRunnable: _dynamic,
    RunnableBindingBase: _binding,
    RunnableSequence: _sequence,
    RunnableParallel: _parallel,
    RunnableAssign: _assign,
    RunnablePick: _pick,
    RunnablePassthrough: lambda _step, before, _config: before,
    RunnableBranch: _branch,
    RunnableWithFallbacks: _fallbacks,
    RouterRunnable: _router,
    RunnableLambda: _function,
    RunnableGenerator: lambda _step, _before, _config: Sum,
    BaseCumulativeTransformOutputParser: _parser,
    StrOutputParser: _text,
    BaseChatModel: lambda _step, _before, _config: Streamed,
    BaseLLM: lambda _step, _before, _config: Streamed,
    Pregel: _graph,
}
