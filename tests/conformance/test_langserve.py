"""Compare every answer with that of a stock `add_routes` for the same runnable: LangServe's behaviour is kept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from langchain_core.runnables import Runnable, RunnableLambda
from langserve import RemoteRunnable, add_routes

from streamserve import Chain
from streamserve.app import create_app
from tests.fakes import Conversation, Topic, echo, greeting, registry_of
from tests.frames import chunks, config_hash, events
from tests.servers import serving

ON = {"configurable": {"template": "On {topic}!"}}
CATS, DOGS = {"topic": "cats"}, {"topic": "dogs"}
HASHES = {"plain": "", "hash": f"c/{config_hash(ON)}/", "empty hash": f"c/{config_hash({})}/"}
each_prefix = pytest.mark.parametrize("prefix", HASHES.values(), ids=HASHES.keys())


def fitting(name: str, prefix: str) -> str:
    """Return the prefix with a hash that the chain knows: LangServe drops other config fields."""
    known = prefix if name == "greeting" else HASHES["empty hash"]
    return known if prefix else ""


def chat() -> Runnable[Any, Any]:
    return RunnableLambda(echo, name="echo").with_types(input_type=Conversation, output_type=str)


@pytest.fixture(scope="module")
def app() -> FastAPI:
    # No examples: they are ours to add to the schemas.
    chains = {"greeting": Chain(runnable=greeting(), input_type=Topic), "chat": Chain(runnable=chat())}
    return create_app(registry_of(chains))


@pytest.fixture(scope="module")
def stock() -> Iterator[httpx.Client]:
    app = FastAPI()
    add_routes(app, greeting().with_types(input_type=Topic), path="/greeting", disabled_endpoints=["token_feedback"])
    add_routes(app, chat(), path="/chat", playground_type="chat", disabled_endpoints=["token_feedback"])
    with serving(app) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield client


def normal(value: Any) -> Any:
    """Replace what differs between two runs of one server: ids and times."""
    text = re.sub(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", "ID", json.dumps(value, default=repr))
    return json.loads(re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+(\+00:00|Z)?", "TIME", text))


def named_alike(value: Any) -> Any:
    """Drop the names of the classes: LangServe derives them from the runnable it is given."""
    return json.loads(re.sub(r'"title": "[^"]*"', '"title": ""', json.dumps(value)))


@each_prefix
def test_invoke(client: httpx.Client, stock: httpx.Client, prefix: str) -> None:
    ours, theirs = (each.post(f"/greeting/{prefix}invoke", json={"input": CATS}) for each in (client, stock))
    assert ours.status_code == theirs.status_code == 200
    assert normal(ours.json()) == normal(theirs.json())
    assert ours.json()["output"] == ("On cats!" if prefix == HASHES["hash"] else "About cats.")


@pytest.mark.parametrize(
    ("config", "output"),
    [
        ({}, ["About cats.", "About dogs."]),
        (ON, ["On cats!", "On dogs!"]),
        ([ON, {}], ["On cats!", "About dogs."]),
    ],
)
def test_batch(client: httpx.Client, stock: httpx.Client, config: Any, output: list[str]) -> None:
    body = {"inputs": [CATS, DOGS], "config": config}
    ours, theirs = (each.post("/greeting/batch", json=body) for each in (client, stock))
    assert normal(ours.json()) == normal(theirs.json())
    assert ours.json()["output"] == output
    assert len(set(ours.json()["metadata"]["run_ids"])) == 2


def test_a_batch_of_nothing(client: httpx.Client, stock: httpx.Client) -> None:
    ours, theirs = (each.post("/greeting/batch", json={"inputs": []}) for each in (client, stock))
    assert normal(ours.json()) == normal(theirs.json())


def test_a_batch_with_another_number_of_configs(client: httpx.Client, stock: httpx.Client) -> None:
    body = {"inputs": [CATS, DOGS], "config": [{}]}
    ours, theirs = (each.post("/greeting/batch", json=body) for each in (client, stock))
    assert ours.status_code == theirs.status_code == 422
    assert ours.json()["detail"] == theirs.json()["detail"]


def test_a_config_in_the_body_comes_after_the_one_in_the_path(client: httpx.Client, stock: httpx.Client) -> None:
    body = {"input": CATS, "config": {"configurable": {"template": "No {topic}"}}}
    ours, theirs = (each.post(f"/greeting/{HASHES['hash']}invoke", json=body) for each in (client, stock))
    assert ours.json()["output"] == theirs.json()["output"]


@each_prefix
def test_stream(client: httpx.Client, stock: httpx.Client, prefix: str) -> None:
    ours, theirs = (each.post(f"/greeting/{prefix}stream", json={"input": CATS}) for each in (client, stock))
    assert [kind for kind, _ in events(ours)] == [kind for kind, _ in events(theirs)] == ["metadata", "data", "end"]
    assert chunks(ours) == chunks(theirs)
    assert set(events(ours)[0][1]) == {"run_id"}


@each_prefix
@pytest.mark.parametrize("name", ["greeting", "chat"])
def test_stream_log(client: httpx.Client, stock: httpx.Client, prefix: str, name: str) -> None:
    given = CATS if name == "greeting" else {"messages": [{"type": "human", "content": "hi"}]}
    ours, theirs = (
        each.post(f"/{name}/{fitting(name, prefix)}stream_log", json={"input": given}) for each in (client, stock)
    )
    assert normal(chunks(ours)) == normal(chunks(theirs))


@each_prefix
def test_stream_events(client: httpx.Client, stock: httpx.Client, prefix: str) -> None:
    ours, theirs = (each.post(f"/greeting/{prefix}stream_events", json={"input": CATS}) for each in (client, stock))
    assert told(chunks(ours)) == told(chunks(theirs))


@pytest.mark.parametrize(
    "wanted",
    [{"include_names": ["text"]}, {"exclude_types": ["prompt"]}, {"include_types": ["prompt"]}, {"diff": False}],
)
@pytest.mark.parametrize("endpoint", ["stream_log", "stream_events"])
def test_filters_of_the_event_streams(
    client: httpx.Client, stock: httpx.Client, endpoint: str, wanted: dict[str, Any]
) -> None:
    body = {"input": CATS, **wanted}
    ours, theirs = (chunks(each.post(f"/greeting/{endpoint}", json=body)) for each in (client, stock))
    if endpoint == "stream_events":
        assert told(ours) == told(theirs)
    else:
        assert normal(ours) == normal(theirs)


@pytest.mark.parametrize("schema", ["input_schema", "output_schema", "config_schema"])
@pytest.mark.parametrize("name", ["greeting", "chat"])
@each_prefix
def test_schemas(client: httpx.Client, stock: httpx.Client, name: str, schema: str, prefix: str) -> None:
    ours, theirs = (each.get(f"/{name}/{fitting(name, prefix)}{schema}") for each in (client, stock))
    assert ours.status_code == theirs.status_code == 200
    assert named_alike(ours.json()) == named_alike(theirs.json())


@each_prefix
@pytest.mark.parametrize("name", ["greeting", "chat"])
def test_playground_pages_and_share_links(client: httpx.Client, stock: httpx.Client, name: str, prefix: str) -> None:
    ours, theirs = (each.get(f"/{name}/{fitting(name, prefix)}playground/") for each in (client, stock))
    assert ours.status_code == theirs.status_code == 200
    assert ours.headers["content-type"] == theirs.headers["content-type"]
    assert _without_titles(ours.text) == _without_titles(theirs.text)


@pytest.mark.parametrize("name", ["greeting", "chat"])
def test_the_files_of_a_playground(client: httpx.Client, stock: httpx.Client, name: str) -> None:
    page = client.get(f"/{name}/playground/").text
    files = re.findall(r'(?:src|href)="/(' + name + r'/playground/[^"]+\.(?:js|css))"', page)
    assert len(files) >= 2
    for file in files:
        ours, theirs = (each.get(f"/{file}") for each in (client, stock))
        assert (ours.status_code, ours.content) == (theirs.status_code, theirs.content)
        assert ours.headers["content-type"] == theirs.headers["content-type"]


def test_the_stock_client_is_served(client: httpx.Client, stock: httpx.Client) -> None:
    for each in (client, stock):
        remote: RemoteRunnable[Any, Any] = RemoteRunnable(f"{each.base_url}/greeting")
        assert remote.invoke(CATS) == "About cats."
        assert remote.invoke(CATS, ON) == "On cats!"
        assert remote.batch([CATS, DOGS], [ON, {}]) == ["On cats!", "About dogs."]
        assert list(remote.stream(CATS, ON)) == ["On cats!"]
        remote.sync_client.close()


async def test_the_asynchronous_stock_client_is_served(client: httpx.Client, stock: httpx.Client) -> None:
    seen = []
    for each in (client, stock):
        remote: RemoteRunnable[Any, Any] = RemoteRunnable(f"{each.base_url}/greeting")
        assert await remote.ainvoke(CATS) == "About cats."
        assert await remote.abatch([CATS, DOGS]) == ["About cats.", "About dogs."]
        assert [chunk async for chunk in remote.astream(CATS)] == ["About cats."]
        patches = [patch async for patch in remote.astream_log(CATS)]
        assert sum(patches[1:], patches[0]).ops
        seen.append(told([event async for event in remote.astream_events(CATS, version="v2")]))
        await remote.async_client.aclose()
    assert seen[0] == seen[1]


def told(found: list[Any]) -> list[Any]:
    """Return the kind, name and data of each event."""
    return [(event["event"], event["name"], normal(event["data"])) for event in found]


def _without_titles(page: str) -> str:
    return re.sub(r'\\?"title\\?": \\?"[^"\\]*\\?"', "", page)
