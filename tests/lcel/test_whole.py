"""The whole of a stream is what the chain's `invoke` returns."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from langchain_core.output_parsers import JsonOutputParser, StrOutputParser
from langchain_core.runnables import (
    Runnable,
    RunnableBranch,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnablePick,
)
from langchain_core.runnables.utils import AddableDict

from streamserve.lcel.plans import plan_of
from streamserve.lcel.whole import Kept, Streamed, Sum
from streamserve.wire.serializer import typed_line
from tests.generated_chains import chains
from tests.observed import without_ids
from tests.streamed_chains import model


def shown(value: Any) -> Any:
    data, _, types = typed_line(value).partition(b"\ntypes: ")
    return without_ids(orjson.loads(data)), types


@given(chains)
@settings(max_examples=300, deadline=None)
def test_the_whole_of_a_stream_is_what_invoke_returns(chain: Runnable[Any, Any]) -> None:
    async def run() -> tuple[Any, Any]:
        whole = plan_of(chain, {})()
        async for chunk in chain.astream("Hi"):
            whole.add(chunk)
        return whole.value(), await chain.ainvoke("Hi")

    try:
        streamed, invoked = asyncio.run(run())
    except RuntimeError:  # in process, fallbacks take a stream without chunks for a failure
        return
    assert shown(streamed) == shown(invoked)


text = model | StrOutputParser()


@pytest.mark.parametrize("few_first", [True, False])
@pytest.mark.parametrize("order", ["ab", "ba", "b"])
def test_a_branch_is_kept_whichever_chunk_comes_first(few_first: bool, order: str) -> None:
    few = RunnableParallel(a=text, b=text).pick(["b"])
    both = RunnableParallel(a=text, b=text)
    first, second = (few, both) if few_first else (both, few)
    whole = plan_of(RunnableBranch((lambda _: True, first), second), {})()
    for key in order:
        whole.add(AddableDict({key: key}))
    assert whole.value() == dict(zip(order, order, strict=True))


@pytest.mark.parametrize(
    "chain",
    [
        model,
        text,
        text.with_config(tags=["t"]).with_retry(),
        text | RunnablePassthrough(),
        text.with_fallbacks([model]),
        RunnableBranch((lambda _: True, text), model),
        RunnableParallel(one=text) | RunnablePick("one"),
    ],
    ids=repr,
)
def test_tokens_are_not_kept_beside_their_blocks(chain: Runnable[Any, Any]) -> None:
    assert plan_of(chain, {}) is Streamed


SNAPSHOTS = (
    ([""], [], ["é"]),  # `["\\u00e9"]`, cut inside of the escape
    ({"a": "x"}, {}, {"a": "xé"}),
    ({}, {"a": [""]}, {"a": []}, {"a": ["é"]}),
)


@pytest.mark.parametrize("snapshots", SNAPSHOTS, ids=repr)
@pytest.mark.parametrize("other", [model, RunnableLambda(len)], ids=["model", "function"])
def test_a_text_that_a_parser_drops_for_a_while_is_kept(snapshots: tuple[Any, ...], other: Runnable[Any, Any]) -> None:
    whole = plan_of(RunnableBranch((lambda _: True, other), model | JsonOutputParser()), {})()
    for snapshot in snapshots:
        whole.add(snapshot)
    assert whole.value() == snapshots[-1]


def test_chunks_that_fail_to_add_up_do_not_end_a_stream() -> None:
    class Odd(str):
        def __add__(self, _: object) -> str:
            raise ValueError("odd")

    kept: list[Any] = []
    whole = Kept(Sum())
    for chunk in (Odd("a"), Odd("b"), Odd("c")):
        whole.add(chunk)
    whole.keep(kept.append)
    assert kept == []
