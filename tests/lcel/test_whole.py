"""The whole of a stream is what the chain's `invoke` returns."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from hypothesis import given, settings
from langchain_core.runnables import Runnable

from streamserve.lcel.plans import plan_of
from streamserve.wire.serializer import typed_line
from tests.generated_chains import chains
from tests.observed import without_ids


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
