"""Our handler of event streams gives a chain, and the caller, what LangServe's handler gives."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
import pytest
from langchain_core.messages import HumanMessage
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableConfig, RunnableLambda
from langchain_core.runnables.config import merge_configs
from langchain_core.runnables.utils import AddableDict
from langchain_core.tracers.log_stream import RunLogPatch
from pydantic import BaseModel

from benchmarks.workload import Question
from streamserve import Chain
from streamserve.doors.langserve.routes import RunRoute
from streamserve.runs.run import Events
from streamserve.serving.served import ServedRunnable
from tests.fakes import echo_graph
from tests.frames import config_hash
from tests.runs.support import app_of, client_of, streaming


class Nested(BaseModel):
    """A model whose fields are models."""

    question: Question
    messages: list[HumanMessage]


ENDPOINTS = ("stream", "stream_log", "stream_events")
QUESTION = {"order": "1 hot"}
HUMAN = {"type": "human", "content": "Hi", "id": "1"}  # a graph gives another id to each message without one
INPUTS: dict[str, tuple[Any, Any]] = {
    "any": (Any, {"a": [1, None, {"b": "c"}]}),
    "text": (str, "x"),
    "fields": (Question, QUESTION),
    "nested": (Nested, {"question": QUESTION, "messages": [HUMAN]}),
    "messages": (list[HumanMessage], [HUMAN]),
}
FILTERS = {"include_names": ["a"], "exclude_tags": ["b", "c"], "include_types": None}
THREAD = {"configurable": {"thread_id": "1"}}
OWN = {"tags": ["t"], "metadata": {"m": 1}, "run_name": "mine", "max_concurrency": 3, "recursion_limit": 7}
CONFIGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "its own": ({}, OWN),
    "a thread": ({}, THREAD),
    "all": ({}, {**OWN, **THREAD}),
    "empty": ({}, {"configurable": {}}),
    "in the path": ({**OWN, **THREAD}, {}),
    "in both": (THREAD, {"tags": ["u"], "configurable": {"checkpoint_id": "c"}}),
}


class Taken:
    """Record the arguments that chains are streamed with, in place of streaming them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: list[tuple[Any, Any, Any]] = []

        def noting(name: str, made: Any) -> None:
            async def stream(_served: Any, given: Any, config: RunnableConfig, **kwargs: Any) -> AsyncIterator[Any]:
                # LangServe's aggregator of events listens to a stream in vain; the run's id is another each time, and
                # the version and the list of a log are the request's own; `changes` stays in the server.
                kept = {**config, "callbacks": [], "run_id": type(config["run_id"])}
                own = ("changes", "version", "with_streamed_output_list")
                self.taken.append((given, kept, {key: kwargs[key] for key in kwargs if key not in own}))
                yield made(given)

            monkeypatch.setattr(ServedRunnable, name, stream)

        noting("astream", lambda given: AddableDict(said=given))
        noting("astream_log", lambda given: RunLogPatch({"op": "replace", "path": "", "value": given}))
        noting("astream_events", lambda given: {"data": given, "metadata": {"shown": 1, "__hidden": 2}})


async def langserves(route: RunRoute, request: Any, _call: Any, in_path: str) -> Events:
    """Return what LangServe's own handler gives."""

    async def items() -> Events:
        response = await route.upstream(request, *([in_path] if in_path else []))
        async for item in response.body_iterator:
            yield {**item, "data": item.get("data", "").encode()}  # LangServe's data are texts

    return items()


def both(
    monkeypatch: pytest.MonkeyPatch, chain: Chain, path: str, headers: dict[str, str], **body: Any
) -> tuple[Any, Any]:
    """Return what our handler gives a chain, and what LangServe's does; callers get the same from both."""
    seen = Taken(monkeypatch)
    with client_of(app_of({"one": chain})) as client:
        ours = data_of(client.post(path, json=body, headers=headers))
        with monkeypatch.context() as patched:
            patched.setattr(RunRoute, "_events", langserves)
            assert ours == data_of(client.post(path, json=body, headers=headers))
    first, second = seen.taken
    return first, second


def data_of(answer: httpx.Response) -> list[str]:
    """The blocks of a stream, but its first if that has the run's id."""
    assert answer.status_code == 200, answer.text
    blocks = answer.text.removeprefix(": \n").split("\n\n")
    return [block for block in blocks if "event: metadata" not in block]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("name", [*INPUTS, "graph"])
@pytest.mark.parametrize("headers", [{}, {"User-Agent": "a client"}], ids=["its own agent", "a named agent"])
def test_the_chain_gets_the_input_that_langserve_gives(
    endpoint: str, name: str, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    input_type, given = INPUTS.get(name, (None, {"messages": [HUMAN]}))
    chain = (
        Chain(runnable=RunnableLambda(lambda x: x), input_type=input_type)
        if input_type
        else Chain(runnable=echo_graph())
    )
    filters = {} if endpoint == "stream" else FILTERS
    ours, stock = both(monkeypatch, chain, f"/one/{endpoint}", headers, input=given, **filters)
    assert ours == stock
    assert type(ours[0]) is type(stock[0])


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("name", CONFIGS)
def test_the_chain_gets_the_config_that_langserve_gives(
    endpoint: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_path, config = CONFIGS[name]
    place = f"/one/c/{config_hash(in_path)}" if in_path else "/one"
    given = {"messages": [HUMAN]}
    chain = Chain(runnable=echo_graph())
    ours, (value, stock, kwargs) = both(monkeypatch, chain, f"{place}/{endpoint}", {}, input=given, config=config)
    # LangServe drops the caller's own keys.
    own = {key: item for key, item in {**in_path, **config}.items() if key != "configurable"}
    assert ours == (value, merge_configs(cast(RunnableConfig, own), stock), kwargs)


@pytest.mark.parametrize(
    ("in_path", "config"),
    [
        ({}, {}),
        ({}, {"configurable": {"word": "b {x}"}}),
        ({"configurable": {"word": "a {x}"}}, {}),
        ({"configurable": {"word": "a {x}"}}, {"configurable": {}}),
        ({"configurable": {"word": "a {x}"}}, {"configurable": {"word": "b {x}"}}),
    ],
    ids=["neither", "body", "path", "path and empty body", "both"],
)
def test_a_configurable_field_arrives_as_by_langserve(
    in_path: dict[str, Any], config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = PromptTemplate.from_template("{x}").configurable_fields(template=ConfigurableField("word"))
    chain = Chain(runnable=prompt, output_type=str)
    place = f"/one/c/{config_hash(in_path)}" if in_path else "/one"
    ours, stock = both(monkeypatch, chain, f"{place}/stream", {}, input={"x": "1"}, config=config)
    assert ours == stock


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_an_input_that_does_not_fit_is_named_by_its_place(endpoint: str) -> None:
    with client_of(app_of({"one": Chain(runnable=RunnableLambda(str), input_type=Nested)})) as client:
        answer = client.post(f"/one/{endpoint}", json={"input": {"question": {"order": 1}, "messages": []}})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "input", "question", "order"]


@pytest.mark.parametrize("endpoint", ["stream_log", "stream_events"])
def test_a_filter_that_does_not_fit_is_named_by_its_place(endpoint: str) -> None:
    with client_of(app_of({"one": RunnableLambda(str)})) as client:
        answer = client.post(f"/one/{endpoint}", json={"input": "x", "include_names": 3})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "include_names"]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_path_without_a_config_in_it_is_refused(endpoint: str) -> None:
    with client_of(app_of({"one": RunnableLambda(str)})) as client:
        answer = client.post(f"/one/c/abc/{endpoint}", json={"input": "x"})
    assert (answer.status_code, answer.json()["detail"]) == (400, "Invalid config hash")


def test_a_second_request_with_the_same_key_calls_no_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Taken(monkeypatch)
    with client_of(app_of({"one": RunnableLambda(str)})) as client:
        with streaming(client, "/one/stream", Idempotency_Key="k") as reader:
            first = reader.rest()
        with streaming(client, "/one/stream", Idempotency_Key="k") as again:
            assert again.rest() == first
    assert len(seen.taken) == 1
