"""The config of a request: what a caller may send, and what the chain gets of body and path."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import langserve
import pytest
from fastapi import FastAPI
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import ConfigurableField, Runnable, RunnableConfig, RunnableLambda
from langgraph.graph import START, MessagesState, StateGraph
from streamserve_sdk import RemoteRunnable, RequestRejected

from streamserve import Chain
from streamserve.app import create_app
from tests.fakes import greeting, registry_of
from tests.frames import chunks, config_hash, events
from tests.servers import serving

ENDPOINTS = ("invoke", "batch", "stream", "stream_log", "stream_events")
RUN_ID = "00000000-0000-0000-0000-000000000001"
# What LangChain's clients fill in, and LangChain.js.
FILLED = {"tags": [], "metadata": {}, "recursion_limit": 25}
FILLED_BY_JS = {"tags": [], "metadata": {"style": "short"}, "recursionLimit": 25}

each_endpoint = pytest.mark.parametrize("endpoint", ENDPOINTS)


async def shown_config(_value: Any, config: RunnableConfig) -> dict[str, Any]:
    """Return the parts of a config that a caller sends."""
    metadata = {name: value for name, value in config["metadata"].items() if not name.startswith("__")}
    return {"tags": sorted(config["tags"]), "metadata": metadata}


def talk() -> Runnable[Any, Any]:
    def answer(_state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        return {"messages": [("ai", f"on {config['configurable']['thread_id']!r}")]}

    return StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile()


@pytest.fixture(scope="module")
def app() -> FastAPI:
    chains = {
        "greeting": Chain(runnable=greeting()),
        "shown": Chain(runnable=RunnableLambda(shown_config), input_type=str),
        "talk": Chain(runnable=talk()),
        "tagged": Chain(runnable=RunnableLambda(shown_config), input_type=str, config_keys=["tags"]),
        "fixed": Chain(runnable=greeting(), config_keys=["tags", "metadata"]),
    }
    return create_app(registry_of(chains))


@pytest.fixture(scope="module")
def url(app: FastAPI) -> Iterator[str]:
    with serving(app) as url:
        yield url


@pytest.fixture(params=[RemoteRunnable, langserve.RemoteRunnable], ids=["ours", "stock"])
async def remote(url: str, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    remote = request.param(f"{url}/greeting")
    yield remote
    # langserve's finalizer closes its clients after their event loop.
    await (remote.aclose if request.param is RemoteRunnable else remote.async_client.aclose)()


def ask(client: httpx.Client, path: str, given: Any, config: Any) -> httpx.Response:
    field, value = ("inputs", [given]) if path.endswith("batch") else ("input", given)
    return client.post(path, json={field: value, "config": config})


@each_endpoint
@pytest.mark.parametrize("name", ["run_id", "runId"])
@pytest.mark.parametrize("run_id", [RUN_ID, "1", 3, None])
def test_the_run_id_of_a_client_is_ignored(client: httpx.Client, endpoint: str, name: str, run_id: Any) -> None:
    for config in [{name: run_id}, [{name: run_id}]] if endpoint == "batch" else [{name: run_id}]:
        answer = ask(client, f"/greeting/{endpoint}", {"topic": "cats"}, config)
        assert answer.status_code == 200, answer.text
        assert "About cats." in answer.text
        assert answer.headers["run-id"] != RUN_ID


@each_endpoint
@pytest.mark.parametrize("name", [*FILLED, "configurable", "run_name", "max_concurrency", "callbacks"])
def test_null_in_a_config_counts_as_absent(client: httpx.Client, endpoint: str, name: str) -> None:
    for path in (f"/greeting/{endpoint}", f"/greeting/c/{config_hash({name: None})}/{endpoint}"):
        answer = ask(client, path, {"topic": "cats"}, {name: None})
        assert answer.status_code == 200, answer.text
        assert "About cats." in answer.text


def test_a_thread_may_be_named_by_a_number(client: httpx.Client) -> None:
    turn = {"messages": ["x"]}
    for thread_id in (1, "1"):
        last = ask(client, "/talk/invoke", turn, {"configurable": {"thread_id": thread_id}}).json()["output"]
    assert [message["content"] for message in last["messages"]] == ["x", "on '1'", "x", "on '1'"]
    assert len(client.get("/talk/threads/1/state").json()["values"]["messages"]) == 4


@each_endpoint
def test_each_endpoint_takes_a_number_as_thread(client: httpx.Client, endpoint: str) -> None:
    config = {"configurable": {"thread_id": 10 + ENDPOINTS.index(endpoint)}}
    for sent in [config, [config]] if endpoint == "batch" else [config]:
        assert ask(client, f"/talk/{endpoint}", {"messages": ["x"]}, sent).status_code == 200
    by_path = f"/talk/c/{config_hash(config)}/{endpoint}"
    assert ask(client, by_path, {"messages": ["x"]}, {}).status_code == 200
    state = client.get(f"/talk/threads/{config['configurable']['thread_id']}/state").json()
    assert len(state["values"]["messages"]) == (6 if endpoint == "batch" else 4)


@each_endpoint
def test_tags_and_metadata_of_path_and_body_are_merged(client: httpx.Client, endpoint: str) -> None:
    path = config_hash({"tags": ["path", "both"], "metadata": {"a": 1, "b": 1}, "run_name": "path"})
    sent = {"tags": ["body", "both"], "metadata": {"b": 2, "c": 2}}
    wanted = {"tags": ["body", "both", "path"], "metadata": {"a": 1, "b": 2, "c": 2}}
    for config in [sent, [sent]] if endpoint == "batch" else [sent]:
        answer = ask(client, f"/shown/c/{path}/{endpoint}", "x", config)
        assert _first_output(answer, endpoint) == wanted


def _first_output(answer: httpx.Response, endpoint: str) -> Any:
    if endpoint in ("invoke", "batch"):
        output = answer.json()["output"]
        return output if endpoint == "invoke" else output[0]
    if endpoint == "stream_events":
        return events(answer)[-2][1]["data"]["output"]
    if endpoint == "stream":
        return chunks(answer)[0]
    ops = [op for patch in chunks(answer) for op in patch["ops"]]
    return next(op["value"] for op in ops if op["path"] == "/streamed_output/-")


@pytest.mark.parametrize("name", ["tags", "metadata"])
def test_null_in_the_body_keeps_what_the_path_says(client: httpx.Client, name: str) -> None:
    path = config_hash({"tags": ["path"], "metadata": {"a": 1}})
    shown = ask(client, f"/shown/c/{path}/invoke", "x", {name: None}).json()["output"]
    assert shown == {"tags": ["path"], "metadata": {"a": 1}}


@each_endpoint
@pytest.mark.parametrize("filled", [FILLED, FILLED_BY_JS], ids=["python", "javascript"])
def test_keys_of_a_surrounding_chain_are_ignored(client: httpx.Client, endpoint: str, filled: Any) -> None:
    config = {**filled, "configurable": {"style": "short", "template": "On {topic}."}}
    for sent in [config, [config]] if endpoint == "batch" else [config]:
        answer = ask(client, f"/greeting/{endpoint}", {"topic": "cats"}, sent)
        assert answer.status_code == 200, answer.text
        assert "On cats." in answer.text


@each_endpoint
@pytest.mark.parametrize("name", FILLED)
def test_a_direct_caller_s_unknown_key_is_named(client: httpx.Client, endpoint: str, name: str) -> None:
    config = {**FILLED, "configurable": {"templte": "On {topic}."}}
    del config[name]
    answer = ask(client, f"/greeting/{endpoint}", {"topic": "cats"}, config)
    assert answer.status_code == 422
    assert [item["loc"] for item in answer.json()["detail"]] == [["body", "config", "configurable", "templte"]]


def test_a_checkpoint_survives_keys_of_other_chains(client: httpx.Client) -> None:
    turn, thread = {"messages": ["x"]}, {"thread_id": "checkpoints"}
    for _ in range(2):
        ask(client, "/talk/invoke", turn, {"configurable": thread})
    first = client.get("/talk/threads/checkpoints/history").json()[-1]["checkpoint"]["checkpoint_id"]
    config = {**FILLED, "configurable": {**thread, "checkpoint_id": first, "style": "short"}}
    assert len(ask(client, "/talk/invoke", turn, config).json()["output"]["messages"]) == 2


async def test_a_remote_chain_works_in_a_configured_chain(remote: Any) -> None:
    own = PromptTemplate.from_template("{topic}").configurable_fields(template=ConfigurableField(id="style"))
    topic = own | RunnableLambda(lambda prompt: {"topic": prompt.to_string()})
    chain = topic | remote
    config: Any = {"configurable": {"style": "big {topic}"}}
    given, wanted = {"topic": "cats"}, "About big cats."
    assert chain.invoke(given, config) == await chain.ainvoke(given, config) == wanted
    assert "".join(chain.stream(given, config)) == wanted
    assert "".join([chunk async for chunk in chain.astream(given, config)]) == wanted
    assert chain.batch([given, given], config) == await chain.abatch([given, given], config) == [wanted, wanted]
    assert RunnableLambda(lambda value: remote.invoke(value)).invoke(given, config) == "About cats."


async def test_our_client_names_a_direct_caller_s_unknown_key(url: str) -> None:
    given, config = {"topic": "cats"}, RunnableConfig(configurable={"templte": "x"}, tags=["a"], recursion_limit=9)
    async with RemoteRunnable[Any, Any](f"{url}/greeting") as remote:
        with pytest.raises(RequestRejected, match="templte"):
            remote.invoke(given, config)
        with pytest.raises(RequestRejected, match="templte"):
            await remote.ainvoke(given, config)
        with pytest.raises(RequestRejected, match="templte"):
            remote.batch([given], config)
        with pytest.raises(RequestRejected, match="templte"):
            await remote.abatch([given], config)
        with pytest.raises(RequestRejected, match="templte"):
            list(remote.stream(given, config))
        with pytest.raises(RequestRejected, match="templte"):
            [event async for event in remote.astream_events(given, config)]


def test_a_stock_proxy_sends_its_run_id(client: httpx.Client, url: str) -> None:
    remote = langserve.RemoteRunnable(f"{url}/greeting")
    config: Any = {"run_id": RUN_ID}
    assert list(remote.stream({"topic": "cats"}, config)) == ["About cats."]
    assert client.get(f"/runs/{RUN_ID}").status_code == 404


@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
@pytest.mark.parametrize("name", [".", "..", "...", "a/..", "a/state", "a\nb", "\n", "a\r\n", " ", "%2e", "a?b#c", 70])
async def test_any_text_may_name_a_thread(url: str, name: Any, transport: Any) -> None:
    config: Any = {"configurable": {"thread_id": name}}
    async with RemoteRunnable[Any, Any](f"{url}/talk", transport=transport) as talk:
        await talk.ainvoke({"messages": ["hi"]}, config)
        first = await talk.aget_state(config)
        assert talk.get_state(config) == first
        assert [message.content for message in first.values["messages"]] == ["hi", f"on {str(name)!r}"]
        await talk.aupdate_state(config, {"messages": ["more"]})
        assert [state async for state in talk.aget_state_history(config)][1].config == first.config
        await talk.adelete_thread(str(name))
        assert talk.get_state(config).values == {}


@each_endpoint
def test_only_the_records_config_keys_reach_the_chain(client: httpx.Client, endpoint: str) -> None:
    config = {"tags": ["one"], "metadata": {"a": 1}}
    given = {"inputs": ["x"]} if endpoint == "batch" else {"input": "x"}
    answer = client.post(f"/tagged/{endpoint}", json={**given, "config": config})
    assert answer.status_code == 200
    assert '"tags":["one"],"metadata":{}' in answer.text


@pytest.mark.parametrize("path", ["/fixed", f"/fixed/c/{config_hash({'configurable': {'style': 'short'}})}"])
@pytest.mark.parametrize("beside", [{}, FILLED], ids=["alone", "filled"])
def test_a_configurable_that_callers_may_not_set_is_refused(client: httpx.Client, path: str, beside: Any) -> None:
    known = next(iter(client.get("/greeting/config_schema").json()["$defs"]["Configurable"]["properties"]))
    in_body = {} if "/c/" in path else {"configurable": {known: "x"}}
    answer = client.post(f"{path}/invoke", json={"input": {"topic": "cats"}, "config": {**beside, **in_body}})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["type"] == "extra_forbidden"
    assert client.post("/fixed/invoke", json={"input": {"topic": "cats"}, "config": beside}).status_code == 200


@pytest.mark.parametrize("keys", ["tags", ["callbacks"]], ids=str)
def test_config_keys_that_are_none_are_refused(keys: Any) -> None:
    with pytest.raises(TypeError, match="config_keys"):
        Chain(runnable=greeting(), config_keys=keys)
