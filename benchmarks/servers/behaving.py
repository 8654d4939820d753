"""Chains that behave: one of 50 tokens a second, and one that fails after a third of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from langchain_core.runnables import RunnableGenerator

from streamserve import Chain

TOKENS = 150
PACE = 1 / 50


async def steady(inputs: AsyncIterator[Any]) -> AsyncIterator[str]:
    """Yield all tokens."""
    async for _ in inputs:
        for number in range(TOKENS):
            await asyncio.sleep(PACE)
            yield f"token {number} "


async def failing(inputs: AsyncIterator[Any]) -> AsyncIterator[str]:
    """Fail after a third of the tokens."""
    async for _ in inputs:
        for number in range(TOKENS // 3):
            await asyncio.sleep(PACE)
            yield f"token {number} "
        raise ValueError("as planned")


def chains() -> dict[str, Chain]:
    """Return the chains."""
    functions = {"failing": failing, "steady": steady}
    return {
        name: Chain(runnable=RunnableGenerator(function), input_type=str, output_type=str)
        for name, function in functions.items()
    }
