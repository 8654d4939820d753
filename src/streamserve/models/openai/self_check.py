"""The check at the start that the fast stream of chat completions gives what ChatOpenAI gives."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import httpx
from langchain_openai import ChatOpenAI

from streamserve.fast_paths import FastPath, note
from streamserve.lcel.isolation import isolated
from streamserve.lcel.recorder import SHOWN, comparable, difference, until_the_end
from streamserve.models.openai.completions import ChunkChatOpenAI

NAME, SAVES = "openai stream", "about 300 us of CPU per token of a ChatOpenAI"
_CALL = {"index": 0, "id": "call-1", "type": "function", "function": {"name": "search", "arguments": ""}}
_DELTAS: tuple[dict[str, Any], ...] = (
    {"role": "assistant", "content": ""},
    {"content": "Cats \u2028"},
    {"content": None, "tool_calls": [_CALL]},
    {"tool_calls": [{"index": 0, "function": {"arguments": '{"q": 1}'}}]},
    {},
)
_USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def _event(**chunk: Any) -> bytes:
    whole = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "canned", "choices": [], **chunk}
    return b"data: %s\n\n" % json.dumps(whole).encode()


def _choice(delta: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"index": 0, "delta": delta, "finish_reason": None if delta else "stop", "logprobs": None}]


_ANSWERS = (
    b"".join(_event(choices=_choice(delta)) for delta in _DELTAS) + _event(usage=_USAGE) + b"data: [DONE]\n\n",
    _event(choices=_choice({"content": "Cats"})) + b'data: {"error": {"message": "overloaded"}}\n\n',
)


@cache
def is_on() -> bool:
    """Return whether the fast stream gives what ChatOpenAI gives; the first call of a process checks it."""
    try:
        found = isolated(_difference())
    except Exception as error:  # a release may break anything
        found = repr(error)[:SHOWN]
    return note(FastPath(NAME, SAVES, found))


async def _difference() -> str | None:
    return difference(await _observations(ChunkChatOpenAI), await _observations(ChatOpenAI))


async def _observations(make: Callable[..., ChatOpenAI]) -> list[Any]:
    answers, seen = iter(_ANSWERS), list[Any]()

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, str(request.url), request.content))
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=next(answers))

    transport = httpx.MockTransport(answer)
    with httpx.Client(transport=transport) as client:
        async with httpx.AsyncClient(transport=transport) as async_client:
            clients = {"http_client": client, "http_async_client": async_client}
            model = make(model="canned", api_key="-", base_url="http://canned", max_retries=0, **clients)
            for _ in _ANSWERS:
                seen += await until_the_end(model.astream("Hi"))
    return comparable(seen)
