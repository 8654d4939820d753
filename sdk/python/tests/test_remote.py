"""RemoteRunnable against a stock LangServe server over a real socket, side by side with LangServe's own client."""

import asyncio
import json
import warnings
from contextlib import aclosing
from importlib.metadata import version
from typing import TypedDict

import httpx
import pytest
import streamserve_sdk
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessageChunk
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tracers import RunLog
from streamserve_sdk import RemoteRunnable, RequestRejected, RunFailed, WireSerializer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from langserve import RemoteRunnable as StockRunnable

pytestmark = [
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince211"),
    pytest.mark.filterwarnings("ignore:astream_log is deprecated"),
]

INPUTS = {"words": "x", "dicts": "x", "odd": "x", "chat": {"topic": "t"}}


class Recorder(BaseCallbackHandler):
    run_inline = True

    def __init__(self):
        self.seen = []

    def on_chain_start(self, serialized, inputs, *, name=None, **kwargs):
        self.seen.append(("start", inputs))

    def on_chain_end(self, outputs, **kwargs):
        self.seen.append(("end", outputs))

    def on_chain_error(self, error, **kwargs):
        self.seen.append(("error", type(error)))


@pytest.fixture
async def stock_client(stock):
    clients = []

    def make(name):
        client = StockRunnable(f"{stock}/{name}")
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.sync_client.close()
        await client.async_client.aclose()


def plain(value):
    """Return the value without the ids that every run has anew."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in ("run_id", "parent_ids", "id")}
    if hasattr(value, "model_dump"):
        return (type(value), plain(value.model_dump()))
    return value


async def collect(stream):
    async with asyncio.timeout(20), aclosing(stream):
        return [item async for item in stream]


@pytest.mark.parametrize("name", INPUTS)
async def test_every_method_gives_the_result_of_langserves_client(stock, stock_client, name):
    value, theirs = INPUTS[name], stock_client(name)
    async with RemoteRunnable(f"{stock}/{name}") as ours:
        expected = plain(await collect(theirs.astream(value)))
        assert len(expected) >= 1
        assert plain(await collect(ours.astream(value))) == expected
        assert plain(await asyncio.to_thread(lambda: list(ours.stream(value)))) == expected
        assert plain(await ours.ainvoke(value)) == plain(await theirs.ainvoke(value))
        assert plain(await ours.abatch([value] * 2)) == plain(await theirs.abatch([value] * 2))
        assert plain(await asyncio.to_thread(ours.invoke, value)) == plain(await ours.ainvoke(value))
        assert plain(await asyncio.to_thread(ours.batch, [value])) == plain(await ours.abatch([value]))


async def test_chunks_are_typed(stock):
    async with RemoteRunnable(f"{stock}/chat") as chat, RemoteRunnable(f"{stock}/dicts") as dicts:
        assert {type(chunk) for chunk in await collect(chat.astream({"topic": "t"}))} == {AIMessageChunk}
        first, second = await collect(dicts.astream("x"))
        assert (first + second)["text"] == "ab"
        assert first["docs"][0].metadata == {"n": 1}


async def test_events_and_log_patches_are_those_of_langserves_client(stock, stock_client):
    async with RemoteRunnable(f"{stock}/words") as ours:
        theirs = stock_client("words")
        events = await collect(ours.astream_events("x", version="v2"))
        assert plain(events) == plain(await collect(theirs.astream_events("x")))
        assert {event["event"] for event in events} == {"on_chain_start", "on_chain_stream", "on_chain_end"}
        log = await collect(ours.astream_log("x"))
        kinds = [[op["path"] for op in patch.ops] for patch in await collect(theirs.astream_log("x"))]
        assert [[op["path"] for op in patch.ops] for patch in log] == kinds


async def test_a_log_without_diff_is_the_state_so_far(stock):
    local = RunnableLambda(str.upper).with_config(run_name="/odd")
    async with RemoteRunnable(f"{stock}/odd") as odd:
        ours, theirs = [await collect(each.astream_log("x", diff=False)) for each in (odd, local)]
    assert [type(log) for log in ours] == [RunLog] * 2
    assert [plain(log.state) for log in ours] == [plain(log.state) for log in theirs]
    assert ours[-1].state["final_output"] == "X"


async def test_filters_of_events_are_sent(stock):
    async with RemoteRunnable(f"{stock}/chat") as chat:
        events = await collect(chat.astream_events({"topic": "t"}, include_types=["chat_model"]))
    assert {event["event"].rpartition("_")[0] for event in events} == {"on_chat_model"}


async def test_a_stock_server_has_no_events_of_version_3(stock):
    async with RemoteRunnable(f"{stock}/chat") as chat:
        with pytest.raises(NotImplementedError, match="v3"):
            await chat.astream_events({"topic": "t"}, version="v3")


async def test_callbacks_see_the_input_and_the_merged_output(stock):
    recorder = Recorder()
    config = {"callbacks": [recorder]}
    async with RemoteRunnable(f"{stock}/words", use_server_callback_events=False) as words:
        await collect(words.astream("x", config))
        await asyncio.to_thread(lambda: list(words.stream("x", config)))
        await words.ainvoke("x", config)
    assert recorder.seen == [("start", "x"), ("end", "one two x")] * 3


async def test_server_callbacks_are_replayed_below_the_local_run(stock):
    recorder = Recorder()
    async with RemoteRunnable(f"{stock}/words") as words:
        await words.ainvoke("x", {"callbacks": [recorder]})
        await asyncio.to_thread(words.batch, ["x"], {"callbacks": [recorder]})
    assert [kind for kind, _ in recorder.seen] == ["start", "start", "end", "end"] * 2


async def test_a_failing_chain_raises_after_its_chunks(stock):
    recorder = Recorder()
    async with RemoteRunnable(f"{stock}/failing") as failing:
        stream = failing.astream("x", {"callbacks": [recorder]})
        assert await anext(stream) == "half"
        with pytest.raises(RunFailed) as caught:
            await anext(stream)
    assert recorder.seen[-1] == ("error", RunFailed)
    assert isinstance(caught.value, httpx.HTTPStatusError)
    assert caught.value.response.status_code == 500
    assert caught.value.run_id


async def test_bad_input_shows_the_servers_text(stock):
    async with RemoteRunnable(f"{stock}/chat") as chat:
        with pytest.raises(RequestRejected, match="Field required") as caught:
            await chat.ainvoke({"nope": 1})
    assert caught.value.response.status_code == 422


async def test_a_batch_gives_each_input_its_own_exception(stock):
    async with RemoteRunnable(f"{stock}/odd") as odd:
        for results in (
            await odd.abatch(["a", "bad", "b"], return_exceptions=True),
            await asyncio.to_thread(lambda: odd.batch(["a", "bad", "b"], return_exceptions=True)),
        ):
            assert (results[0], results[2]) == ("A", "B")
            assert isinstance(results[1], httpx.HTTPStatusError)
        assert await odd.abatch([]) == []
        assert sorted([item async for item in odd.abatch_as_completed(["a", "b"])]) == [(0, "A"), (1, "B")]


async def test_it_composes_with_chains(stock):
    async with RemoteRunnable(f"{stock}/odd") as odd, RemoteRunnable(f"{stock}/words") as words:
        assert "".join(await collect((words | odd).astream("x"))) == "ONE TWO X"
        assert await asyncio.to_thread((odd | words).invoke, "x") == "one two X"
        parallel = RunnableParallel(a=odd, b=words)
        assert await parallel.ainvoke("x") == {"a": "X", "b": "one two x"}
        safe = odd.with_config(tags=["t"]).with_fallbacks([RunnableLambda(lambda _: "fallback")])
        assert await safe.ainvoke("bad") == "fallback"
        again = odd.with_retry(retry_if_exception_type=(httpx.HTTPStatusError,), stop_after_attempt=2)
        assert await again.ainvoke("a") == "A"
        assert (odd | words).get_graph().nodes


async def test_its_chunks_show_in_the_events_of_a_surrounding_chain(stock):
    async with RemoteRunnable(f"{stock}/words") as words:
        chain = words | RunnableLambda(str.upper)
        events = await collect(chain.astream_events("x", version="v2"))
    assert [e["data"]["chunk"] for e in events if (e["event"], e["name"]) == ("on_chain_stream", "RemoteRunnable")] == [
        "one ", "two ", "x",
    ]  # fmt: skip


async def test_it_runs_inside_a_graph(stock):
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.graph import END, START, StateGraph

    class State(TypedDict):
        text: str

    async with RemoteRunnable(f"{stock}/words") as words:

        async def node(state: State, config) -> State:
            return {"text": await words.ainvoke(state["text"], config)}

        graph = StateGraph(State).add_node("node", node).add_edge(START, "node").add_edge("node", END)
        compiled = graph.compile(checkpointer=InMemorySaver())
        result = await compiled.ainvoke({"text": "x"}, {"configurable": {"thread_id": "1"}})
    assert result == {"text": "one two x"}


async def test_a_serializer_of_langserve_works(stock):
    from langserve.serialization import WellKnownLCSerializer

    for serializer in (WellKnownLCSerializer(), WireSerializer()):
        async with RemoteRunnable(f"{stock}/dicts", serializer=serializer) as dicts:
            assert [chunk["text"] for chunk in await collect(dicts.astream("x"))] == ["a", "b"]


def test_a_run_can_be_joined_and_cancelled(scripted, wire):
    server = scripted(
        [wire.run_head(), wire.sent(wire.block(3, "data", '"c"'), wire.block(4, "end")), wire.EOF],
        wire.plain(404, "{}"),
    )
    with RemoteRunnable(server.url) as joke:
        assert list(joke.join("r1", after=2)) == ["c"]
        assert joke.cancel("r1", wait=1.5) == {"status": "running"}
        with pytest.raises(httpx.HTTPStatusError):
            list(joke.join("unknown"))
    # `after`, not Last-Event-ID: who joins may not have the chunk that the next patch changes.
    assert "last-event-id" not in server.received[0].headers
    assert [r.path for r in server.received] == [
        "/runs/r1/stream?after=2", "/runs/r1/cancel?wait=1.5", "/runs/unknown/stream",
    ]  # fmt: skip


async def test_the_output_of_an_ended_run_survives_a_cut(scripted, wire):
    reply = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 12\r\n\r\n{"output":1}'
    server = scripted([wire.CUT], [reply], [wire.CUT], [reply])
    async with RemoteRunnable(server.url, retry=wire.FAST) as joke:
        assert joke._client.output("r1").output == 1
        assert (await joke._client.aoutput("r1")).output == 1
    assert [r.path for r in server.received] == ["/runs/r1/output?wait=2"] * 4


async def test_a_run_can_be_joined_and_cancelled_without_blocking(scripted, wire):
    server = scripted([wire.run_head(), wire.sent(wire.block(1, "data", '"c"'), wire.block(2, "end")), wire.EOF])
    async with RemoteRunnable(server.url) as joke:
        assert await collect(joke.ajoin("r1")) == ["c"]
        assert await joke.acancel("r1") == {"status": "running"}


@pytest.mark.parametrize("url", ["http://h/joke", "http://h/joke/"])
def test_its_url_ends_with_a_slash_as_that_of_the_stock_client(url):
    assert RemoteRunnable(url).url == StockRunnable(url).url == "http://h/joke/"


def test_its_name_shows_no_credentials():
    assert repr(RemoteRunnable("http://me:s3cret@h/joke")) == "RemoteRunnable('http://h/joke')"


@pytest.mark.parametrize(
    ("name", "message"),
    [("detatch", "did you mean 'detach'"), ("on_runs", "did you mean 'on_run'"), ("return_exceptions", "no argument")],
)
def test_misspelt_arguments_are_refused(name, message):
    remote = RemoteRunnable("http://127.0.0.1:1/joke")
    with pytest.raises(TypeError, match=message):
        remote.invoke("x", **{name: True})
    with pytest.raises(TypeError, match=message):
        next(remote.stream("x", **{name: True}))


def test_the_version_is_that_of_the_package():
    assert streamserve_sdk.__version__ == version("streamserve-sdk")


def test_strict_type_checkers_accept_a_client_by_its_url(tmp_path):
    api = pytest.importorskip("mypy.api")
    script = tmp_path / "script.py"
    script.write_text(
        "from streamserve_sdk import RemoteRunnable\n"
        'joke = RemoteRunnable("http://h/joke")\n'
        'typed = RemoteRunnable[str, int]("http://h/joke")\n'
        'number: int = typed.invoke("x")\n'
        'RemoteRunnable("http://h/joke", timout=3)\n'
        "typed.invoke(3)\n"
    )
    found, _, _ = api.run(["--strict", "--cache-dir", str(tmp_path), "--follow-imports=silent", str(script)])
    assert [line.split(": ")[0].rpartition(":")[2] for line in found.splitlines() if ": error:" in line] == ["5", "6"]


SCHEMA = {"title": "JokeInput", "type": "object", "properties": {"topic": {"$ref": "#/$defs/T"}, "copy": {}},
          "required": ["topic"], "$defs": {"T": {"type": "string"}}}  # fmt: skip


def json_answer(value):
    body = json.dumps(value)
    return [f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()]


def test_the_schema_is_the_servers_and_asked_for_once(scripted):
    server = scripted(json_answer(SCHEMA), json_answer({"type": "string"}))
    with RemoteRunnable(server.url) as joke:
        assert joke.get_input_jsonschema() == joke.input_schema.model_json_schema() == SCHEMA
        assert set(joke.input_schema.model_fields) == {"topic", "copy"}
        assert joke.get_output_jsonschema() == {"type": "string"}
    assert [request.path for request in server.received] == ["/joke/input_schema", "/joke/output_schema"]


async def test_a_tool_has_the_servers_arguments_and_sends_those_given(scripted):
    seen = []

    class Watcher(BaseCallbackHandler):
        def on_chain_start(self, serialized, inputs, *, parent_run_id=None, metadata=None, **kwargs):
            seen.append((inputs, parent_run_id is not None, metadata.get("who")))

    server = scripted(json_answer(SCHEMA), json_answer({"output": "ha"}), json_answer({"output": "hi"}))
    async with RemoteRunnable(server.url) as joke:
        tool = joke.as_tool()
        assert (tool.name, tool.tool_call_schema["properties"]) == ("joke", SCHEMA["properties"])
        config = {"callbacks": [Watcher()], "metadata": {"who": "me"}}
        assert await asyncio.to_thread(tool.invoke, {"topic": "x"}, config) == "ha"
        assert await tool.ainvoke({"topic": "y"}, config) == "hi"
    assert [json.loads(request.body)["input"] for request in server.received[1:]] == [{"topic": "x"}, {"topic": "y"}]
    assert seen == [({"topic": "x"}, True, "me"), ({"topic": "y"}, True, "me")]


@pytest.mark.filterwarnings("ignore:This API is in beta")
def test_a_tool_of_a_chain_of_texts_takes_a_text(scripted):
    server = scripted(json_answer({"type": "string"}), json_answer({"output": "ha"}))
    with RemoteRunnable(server.url) as joke:
        assert joke.as_tool(name="tell").invoke("x") == "ha"


def test_a_graph_is_drawn_without_a_server():
    drawn = (RemoteRunnable("http://127.0.0.1:1/joke") | RunnableLambda(str)).get_graph().draw_mermaid()
    assert "RemoteRunnable" in drawn
