"""Streams a chain with a langchain-core whose source was changed: `python -m tests.lcel.changed CHANGE`."""

from __future__ import annotations

import asyncio
import re
import sys
from dataclasses import dataclass

from tests.changed_source import change


@dataclass(frozen=True)
class Change:
    """A text in the source, the text in its place, and the pieces that then no longer do the same."""

    old: str
    new: str
    pieces: frozenset[str]


CHANGES = {
    "a renamed private function": Change(r"\b_normalize_messages\b", "_normalized", frozenset({"call", "model"})),
    "an extra chunk of a model": Change(
        r"^( +)yield msg_chunk$", r"\1yield msg_chunk\n\1yield msg_chunk", frozenset({"model"})
    ),
    "another type of a parser's run": Change(
        r'run_type="parser"', 'run_type="chain"', frozenset({"parser", "json", "tools"})
    ),
    "another order of a prompt's messages": Change(
        r"\[p\.to_messages\(\) for p in prompts\]", "[p.to_messages()[::-1] for p in prompts]", frozenset({"call"})
    ),
    "another tag of a sequence's steps": Change("seq:step:", "sequence:step:", frozenset({"sequence"})),
    "an argument that a binding adds": Change(
        r"\*\*\{\*\*self\.kwargs, \*\*kwargs\}",
        "**{**self.kwargs, **kwargs, 'bound': True}",
        frozenset({"binding", "call"}),
    ),
    "other characters around JSON": Change(r"^_json_strip_chars = .*", '_json_strip_chars = " "', frozenset({"json"})),
    "another input of a stream's run": Change(
        r'\{"input": ""\}', '{"input": "-"}', frozenset({"sequence", "parser", "json", "tools"})
    ),
}


async def _stream() -> None:
    from streamserve.lcel.fast_chain import fast, pieces
    from tests.observed import answer_of, chunks_of
    from tests.streamed_chains import TOPIC, text

    print(sorted(pieces()))
    print(await chunks_of(text, TOPIC))
    print(await chunks_of(fast(text), TOPIC))
    print(await answer_of(text, TOPIC, {}))
    print(await answer_of(fast(text), TOPIC, {}))


if __name__ == "__main__":
    wanted = CHANGES[sys.argv[1]]
    change(["langchain_core"], re.compile(wanted.old, re.MULTILINE), wanted.new)
    asyncio.run(_stream())
