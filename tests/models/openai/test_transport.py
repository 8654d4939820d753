"""The chat model over aiohttp: the same stream, with reused connections that end with their event loop."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel

from streamserve.errors.providers import UpstreamTruncated
from streamserve.models import chat_model
from streamserve.models.openai import transport as openai_aiohttp
from tests.limits import LIMIT
from tests.upstream.scripted import DONE, Reply, Requests, chat, scripted_server

TEXT = chat({"role": "assistant", "content": "Zwölf "}) + chat({"content": "日本 🎉"})
END = chat(finish="stop") + DONE


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STREAMSERVE_MODEL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("STREAMSERVE_OPENAI_TRANSPORT", "aiohttp")
    openai_aiohttp.aiohttp_client.cache_clear()


def model_of(server: Requests, monkeypatch: pytest.MonkeyPatch, **kwargs: Any) -> BaseChatModel:
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    return chat_model(max_retries=0, **kwargs)


def test_without_aiohttp_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setattr(openai_aiohttp, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"streamserve\[aiohttp\]"):
        chat_model()


@pytest.fixture
def installed() -> None:
    pytest.importorskip("aiohttp")


@pytest.mark.usefixtures("installed")
def test_connections_are_used_again_and_end_with_their_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted_server(Reply([TEXT + END])) as server:
        models = [model_of(server, monkeypatch) for _ in range(2)]

        async def texts() -> list[str]:
            async with asyncio.timeout(LIMIT):
                streamed = ["".join([chunk.text async for chunk in model.astream("hi")]) for model in models]
                return [*streamed, (await models[0].ainvoke("hi", stream=True)).text]

        assert asyncio.run(texts()) == ["Zwölf 日本 🎉"] * 3
        assert asyncio.run(texts()) == ["Zwölf 日本 🎉"] * 3
        # What is left open warns when it is collected, and a warning fails the test.
        gc.collect()
    assert [len(set(server.ports[:3])), len(set(server.ports[3:])), len(set(server.ports))] == [1, 1, 2]


@pytest.mark.usefixtures("installed")
async def test_a_connection_lost_in_the_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted_server(Reply([TEXT], cut=True)) as server:
        stream = model_of(server, monkeypatch).astream("hi")
        assert (await anext(stream)).text == "Zwölf "
        with pytest.raises(UpstreamTruncated, match="broke off"):
            _ = [chunk async for chunk in stream]


@pytest.mark.usefixtures("installed")
async def test_cancelling_closes_the_connection_to_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    arrived = asyncio.Event()
    with scripted_server(Reply([TEXT], hang=True)) as server:
        model = model_of(server, monkeypatch)

        async def read() -> None:
            async for _ in model.astream("hi"):
                arrived.set()

        task = asyncio.create_task(read())
        async with asyncio.timeout(LIMIT):
            await arrived.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(server.left.wait, LIMIT)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("stale", [True, False])
def test_only_a_request_that_was_not_sent_is_sent_again(monkeypatch: pytest.MonkeyPatch, stale: bool) -> None:
    import aiohttp

    cause = aiohttp.ClientConnectionResetError("Cannot write to closing transport") if stale else None
    failure = aiohttp.ClientOSError("Can not write request body")
    failure.__cause__ = cause
    send, failures = openai_aiohttp.DefaultAioHttpClient.send, [failure]

    async def failing(client: Any, *args: Any, **kwargs: Any) -> Any:
        if failures:
            raise failures.pop()
        return await send(client, *args, **kwargs)

    monkeypatch.setattr(openai_aiohttp.DefaultAioHttpClient, "send", failing)
    with scripted_server(Reply([TEXT + END])) as server:

        async def text() -> str:
            async with asyncio.timeout(LIMIT):
                return (await model_of(server, monkeypatch).ainvoke("hi", stream=True)).text

        if stale:
            assert asyncio.run(text()) == "Zwölf 日本 🎉"
        else:
            with pytest.raises(Exception, match="Connection error"):
                asyncio.run(text())
        assert len(server.seen) == int(stale)
