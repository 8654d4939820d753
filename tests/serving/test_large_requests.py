"""Large requests are read, checked and answered in OS threads, so that they hold up no stream of others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnablePassthrough, RunnableSequence
from pydantic import BaseModel, field_validator, model_serializer

from streamserve import Chain
from streamserve.call import current_call
from streamserve.serving.at_once import at_once, has_own_batch
from tests.runs.support import app_of, client_of

ENDPOINTS = ["invoke", "batch", "stream", "stream_log", "stream_events", "runs"]
BODIES: dict[str, Any] = {"many bytes": {"text": "x" * 40_000}, "many values": {"text": "x", "values": [1] * 1_500}}
seen: dict[str, set[str]] = {"loop": set(), "input": set(), "output": set(), "call": set()}


class Given(BaseModel):
    """Notes the OS threads in which it is checked."""

    text: str
    values: list[int] = []

    @field_validator("text")
    @classmethod
    def noted(cls, text: str) -> str:
        seen["input"].add(threading.current_thread().name)
        seen["call"].add(str(current_call.get()))
        if text == "wrong":
            raise ValueError(text)
        return text


class Answer(BaseModel):
    """Notes the OS threads in which it is encoded."""

    @model_serializer
    def noted(self) -> dict[str, int]:
        seen["output"].add(threading.current_thread().name)
        return {"length": 1}


async def answer(_given: Any) -> Answer:
    seen["loop"].add(threading.current_thread().name)
    return Answer()


@pytest.fixture(autouse=True)
def forget() -> None:
    for names in seen.values():
        names.clear()


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    chain = Chain(runnable=RunnableLambda(answer), input_type=Given, output_type=Any)
    with client_of(app_of({"chain": chain})) as client:
        yield client


def ask(client: httpx.Client, endpoint: str, given: Any) -> httpx.Response:
    body = {"inputs": [given]} if endpoint == "batch" else {"input": given}
    return client.post(f"/chain/{endpoint}", json=body)


@pytest.mark.filterwarnings("ignore:astream_log is deprecated")
@pytest.mark.parametrize("given", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_large_input_is_checked_off_the_loop(client: httpx.Client, endpoint: str, given: Any) -> None:
    assert ask(client, endpoint, given).status_code in (200, 202)
    ask(client, "invoke", {"text": "x"}).raise_for_status()  # so that the loop is known
    (loop,) = seen["loop"]
    assert len(seen["input"] - {loop}) > 0
    assert "None" not in seen["call"]  # the context of the request


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_the_places_of_a_large_misfit_are_found_off_the_loop(client: httpx.Client, endpoint: str) -> None:
    refused = ask(client, endpoint, {"text": "wrong", "values": [1] * 1_500})
    assert (refused.status_code, refused.json()["detail"][0]["loc"][-1]) == (422, "text")
    off = set(seen["input"])
    ask(client, "invoke", {"text": "x"}).raise_for_status()
    assert off.isdisjoint(seen["loop"])


@pytest.mark.parametrize("endpoint", ["invoke", "batch"])
def test_the_answer_to_a_large_input_is_encoded_off_the_loop(client: httpx.Client, endpoint: str) -> None:
    answered = ask(client, endpoint, BODIES["many bytes"]).json()["output"]
    assert answered in ({"length": 1}, [{"length": 1}])
    assert seen["output"].isdisjoint(seen["loop"])


def test_a_small_request_changes_no_thread(client: httpx.Client) -> None:
    ask(client, "invoke", {"text": "x" * 1_000}).raise_for_status()
    assert seen["input"] == seen["output"] == seen["loop"]


def test_an_error_of_many_keys_names_the_first_places(client: httpx.Client) -> None:
    body = {"input": {"text": "x"}, "config": {"configurable": {str(number): 1 for number in range(2_000)}}}
    refused = client.post("/chain/invoke", json=body)
    assert (refused.status_code, len(refused.json()["detail"])) == (422, 100)


async def test_calls_of_a_batch_begin_one_by_one() -> None:
    rounds, begun = 0, []

    async def count() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    async def one(index: int) -> int:
        begun.append(rounds)
        return index

    counting = asyncio.create_task(count())
    assert await at_once((None,), one, 50) == list(range(50))
    counting.cancel()
    assert len(set(begun)) > 40


async def test_a_failure_cancels_the_other_calls() -> None:
    ended: list[int] = []

    async def one(index: int) -> None:
        if index == 3:
            raise ValueError("three")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(index)

    with pytest.raises(ValueError, match="three"):
        await at_once((None, 5), one, 20)
    await asyncio.sleep(0)
    assert sorted(ended) in ([0, 1, 2, 4], [0, 1, 2, 4, 5])  # one may begin in the place of the one that failed


class Together(RunnableLambda[Any, Any]):
    """Takes a batch in one call."""

    async def abatch(self, inputs: list[Any], *_: Any, **__: Any) -> list[Any]:
        return [len(inputs)] * len(inputs)


def test_a_configurable_step_has_no_batch_of_its_own() -> None:
    field, choice = ConfigurableField(id="template"), ConfigurableField(id="choice")
    prompt = PromptTemplate.from_template("About {topic}.")
    chosen = prompt.configurable_alternatives(choice, other=Together(lambda value: value))
    made_late = prompt.configurable_alternatives(choice, other=lambda: prompt)
    assert has_own_batch(prompt.configurable_fields(template=field) | len) is False
    assert [has_own_batch(chosen), has_own_batch(made_late)] == [True, True]


def test_a_step_with_a_batch_of_its_own_gets_all_items() -> None:
    together = Together(lambda value: value)
    assert [has_own_batch(RunnableLambda(len)), has_own_batch(RunnablePassthrough() | len)] == [False, False]
    chain = RunnableSequence(RunnablePassthrough(), together.with_config(tags=["x"]))
    assert [has_own_batch(together), has_own_batch(chain)] == [True, True]
    with client_of(app_of({"chain": chain})) as client:
        assert client.post("/chain/batch", json={"inputs": [1] * 5}).json()["output"] == [5] * 5
