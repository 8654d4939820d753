"""A stream without a config of its own is answered as LangServe answers it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from pydantic import BaseModel

from benchmarks.workload import Question
from streamserve import Chain
from streamserve.doors.langserve.plain_stream import PlainStream
from streamserve.serving.served import ServedRunnable
from tests.fakes import echo_graph
from tests.runs.support import app_of, client_of, streaming


class Nested(BaseModel):
    """A model whose fields are models."""

    question: Question
    messages: list[HumanMessage]


QUESTION = {"order": "1 hot"}
HUMAN = {"type": "human", "content": "Hi"}
INPUTS: dict[str, tuple[Any, Any]] = {
    "any": (Any, {"a": [1, None, {"b": "c"}]}),
    "text": (str, "x"),
    "fields": (Question, QUESTION),
    "nested": (Nested, {"question": QUESTION, "messages": [HUMAN]}),
    "messages": (list[HumanMessage], [HUMAN]),
}


class Taken:
    """What chains are streamed with, in the place of streaming them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: list[tuple[Any, Any]] = []

        async def astream(_served: Any, given: Any, config: RunnableConfig) -> AsyncIterator[Any]:
            # LangServe's aggregator of events listens to a stream in vain; the run's id is another each time.
            self.taken.append((given, {**config, "callbacks": [], "run_id": type(config["run_id"])}))
            yield {"said": given}

        monkeypatch.setattr(ServedRunnable, "astream", astream)


@pytest.mark.parametrize("name", [*INPUTS, "graph"])
@pytest.mark.parametrize("headers", [{}, {"User-Agent": "a client"}], ids=["its own agent", "a named agent"])
def test_the_chain_is_given_what_langserve_gives_it(
    name: str, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    input_type, given = INPUTS.get(name, (None, {"messages": [HUMAN]}))
    chain = (
        Chain(runnable=RunnableLambda(lambda x: x), input_type=input_type)
        if input_type
        else Chain(runnable=echo_graph())
    )
    seen, app = Taken(monkeypatch), app_of({"one": chain})
    with client_of(app) as client:
        body: dict[str, Any] = {"json": {"input": given}, "headers": headers}
        plain = data_of(client.post("/one/stream", **body))
        monkeypatch.setattr(PlainStream, "events", lambda *_: None)
        assert plain == data_of(client.post("/one/stream", **body))
    ours, langserves = seen.taken
    assert ours == langserves
    assert type(ours[0]) is type(langserves[0])


def data_of(answer: httpx.Response) -> list[str]:
    """The blocks of a stream but the first, which has the run's id."""
    assert answer.status_code == 200, answer.text
    first, *rest = answer.text.removeprefix(": \n").split("\n\n")
    assert "event: metadata" in first
    return rest


@pytest.mark.parametrize(
    "body", [{"config": {"tags": ["t"]}}, {"config": {"configurable": {"thread_id": "1"}}}], ids=["tags", "thread"]
)
def test_a_request_with_a_config_goes_langserves_way(body: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    events = PlainStream.events
    monkeypatch.setattr(PlainStream, "events", lambda *args: asked.append(events(*args)))
    with client_of(app_of({"one": Chain(runnable=echo_graph())})) as client:
        assert client.post("/one/stream", json={"input": {"messages": [HUMAN]}, **body}).status_code == 200
        assert asked == [None]
        assert client.post("/one/stream", json={"input": {"messages": [HUMAN]}}).status_code == 200
        assert asked[1] is not None


def test_an_input_that_does_not_fit_is_named_by_its_place() -> None:
    with client_of(app_of({"one": Chain(runnable=RunnableLambda(str), input_type=Nested)})) as client:
        answer = client.post("/one/stream", json={"input": {"question": {"order": 1}, "messages": []}})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "input", "question", "order"]


def test_a_second_request_with_the_same_key_calls_no_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Taken(monkeypatch)
    with client_of(app_of({"one": RunnableLambda(str)})) as client:
        with streaming(client, "/one/stream", Idempotency_Key="k") as reader:
            first = reader.rest()
        with streaming(client, "/one/stream", Idempotency_Key="k") as again:
            assert again.rest() == first
    assert len(seen.taken) == 1
