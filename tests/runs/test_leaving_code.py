"""Code that leaves: a step that exits, is interrupted or cancels ends its own run, and nothing else."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, cast

import httpx
import pytest
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Mount
from typing_extensions import TypedDict

from streamserve import Chain
from streamserve.call import Call, current_call
from streamserve.lifespan import lifespan
from streamserve.runs.chain_tasks import Exited, contained
from tests.fakes import GatedModel
from tests.leaving_chains import GRAPHS, LAMBDAS, WAYS, given, leave, leave_async
from tests.runs.support import LIMIT, app_of, client_of, ended, error_of, streaming
from tests.servers import serving

pytestmark = pytest.mark.filterwarnings("ignore:astream_log is deprecated")

STREAMS = ("stream", "stream_log", "stream_events")


async def say(word: str) -> str:
    return f"said {word}"


async def say_in_task(word: str) -> str:
    return await asyncio.create_task(say(word))


def leaving_reducer(_left: Any, right: Any) -> Any:
    return leave(right[-1][1]) if right else []


class Reducing(TypedDict):
    messages: Annotated[list[Any], leaving_reducer]


def reducing() -> Any:
    made = StateGraph(Reducing).add_node("node", lambda _state: {}).add_edge(START, "node")
    return made.compile(InMemorySaver())


async def catching(way: str) -> str:
    try:
        return await asyncio.to_thread(leave, way)
    except SystemExit as error:
        return f"caught {error.code}"


async def hasty(_given: str) -> str:
    asyncio.create_task(asyncio.sleep(LIMIT)).cancel()
    await asyncio.sleep(0)
    return "hasty"


def chains() -> dict[str, Any]:
    made = {name: Chain(runnable=runnable, input_type=str, output_type=Any) for name, runnable in LAMBDAS.items()}
    made["catching"] = Chain(runnable=RunnableLambda(catching), input_type=str)
    made["hasty"] = Chain(runnable=RunnableLambda(hasty), input_type=str)
    return {**made, **GRAPHS, "reducing": reducing()}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with client_of(app_of(chains())) as client:
        yield client


def the_record(caplog: pytest.LogCaptureFixture) -> logging.LogRecord:
    """Return the only record of a failure."""
    (record,) = [record for record in caplog.records if record.name.startswith("streamserve")]
    return record


def cause_of(record: logging.LogRecord) -> BaseException | None:
    assert record.exc_info
    error = record.exc_info[1]
    while error is not None and type(error) not in WAYS.values():
        error = error.__cause__
    return error


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [*LAMBDAS, *GRAPHS])
def test_code_that_leaves_has_one_terminal_and_one_record(
    client: httpx.Client, caplog: pytest.LogCaptureFixture, name: str, way: str
) -> None:
    for endpoint in STREAMS:
        caplog.clear()
        with streaming(client, f"/{name}/{endpoint}", given(name, way)) as reader:
            blocks = reader.rest()
        assert error_of(blocks[-1])["code"] == "internal"
        assert not any(b"event: end" in block or b"event: error" in block for block in blocks[:-1])
        record = the_record(caplog)
        assert (record.__dict__["run_id"], type(cause_of(record))) == (reader.run_id, WAYS[way])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [*LAMBDAS, *GRAPHS])
def test_code_that_leaves_has_one_answer_and_one_record(
    client: httpx.Client, caplog: pytest.LogCaptureFixture, name: str, way: str
) -> None:
    one, two = given(name, way), given(name, way)
    for endpoint, body in (("invoke", {"input": one}), ("batch", {"inputs": [one, two]})):
        caplog.clear()
        answer = client.post(f"/{name}/{endpoint}", json=body)
        assert (answer.status_code, answer.json()["code"]) == (500, "internal")
        record = the_record(caplog)
        assert (record.__dict__["run_id"], type(cause_of(record))) == (answer.headers["Run-Id"], WAYS[way])


@pytest.mark.parametrize("way", WAYS)
def test_code_that_leaves_does_so_with_events_of_version_3(client: httpx.Client, way: str) -> None:
    for name in ("sync", "async", "node", "async-node", "agent"):
        body = {"input": given(name, way), "kwargs": {"version": "v3"}}
        answer = client.post(f"/{name}/stream_events", json=body)
        assert (answer.text.count("event: error"), answer.text.count("event: end")) == (1, 0), answer.text


@pytest.mark.parametrize("way", WAYS)
def test_a_background_run_that_leaves_ends_with_an_error(client: httpx.Client, way: str) -> None:
    for name in ("sync", "async", "node"):
        started = client.post(f"/{name}/runs", json={"input": given(name, way)})
        state = ended(client, started.json()["run_id"])
        assert (state["status"], state["error"]["code"]) == ("error", "internal")


@pytest.mark.parametrize("way", WAYS)
def test_a_call_that_leaves_its_thread_is_stored_as_failed(client: httpx.Client, way: str) -> None:
    config = {"configurable": {"thread_id": f"of-{way}"}}
    answer = client.post("/node/invoke", json={"input": given("node", way), "config": config})
    assert answer.status_code == 500
    state = ended(client, answer.headers["Run-Id"])
    assert (state["status"], state["error"]["code"]) == ("error", "internal")
    again = client.post("/node/stream", json={"input": given("node", way), "config": config})
    assert "event: error" in again.text


@pytest.mark.parametrize("way", ["exit", "interrupt"])
def test_other_streams_go_on_while_a_step_exits(way: str) -> None:
    model = GatedModel(tokens=["one", "two"])
    with client_of(app_of({**chains(), "bystander": model})) as client:
        with streaming(client, "/bystander/stream") as reader:
            model.gate.open()
            reader.until(b'"one"')
            for name in ("sync", "async", "parallel", "node", "agent"):
                assert client.post(f"/{name}/invoke", json={"input": given(name, way)}).status_code == 500
            model.gate.open()
            rest = reader.rest()
        assert [b'"two"' in rest[0], b"event: end" in rest[-1]] == [True, True]
        assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("way", WAYS)
def test_an_update_of_a_state_that_leaves_is_an_error(client: httpx.Client, way: str) -> None:
    values = {"values": {"messages": [["user", way]]}}
    answer = client.post("/reducing/threads/one/state", json=values)
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")


def test_a_step_may_catch_the_exit_of_its_own_code(client: httpx.Client) -> None:
    assert client.post("/catching/invoke", json={"input": "exit"}).json()["output"] == "caught mine"


def test_a_task_that_is_cancelled_before_it_starts_is_closed(client: httpx.Client) -> None:
    assert client.post("/hasty/invoke", json={"input": "x"}).json()["output"] == "hasty"


def test_two_applications_of_one_loop_run_their_chains() -> None:
    first, second = (app_of({"tasks": Chain(runnable=RunnableLambda(say_in_task))}) for _ in range(2))

    @asynccontextmanager
    async def both(_app: Starlette) -> AsyncIterator[None]:
        async with lifespan(first), lifespan(second):
            yield

    outer = Starlette(routes=[Mount("/first", first), Mount("/second", second)], lifespan=both)
    with serving(outer) as url:
        for path in ("first", "second"):
            for endpoint in ("invoke", "stream"):
                answer = httpx.post(f"{url}/{path}/tasks/{endpoint}", json={"input": "cats"})
                assert answer.status_code == 200
                assert "said cats" in answer.text


async def test_an_exit_is_contained_until_the_last_server_ends() -> None:
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    first, second = contained(loop), contained(loop)
    first.__enter__()
    with second:
        first.__exit__(None, None, None)
        token = current_call.set(Call())
        with pytest.raises(Exited):
            await asyncio.create_task(leave_async("exit"))
        current_call.reset(token)
    assert loop.get_task_factory() is before


class Unprintable(Exception):
    def __init__(self, way: str) -> None:
        super().__init__(way)
        self.way = way

    def __str__(self) -> str:
        return leave(self.way)


def raise_unprintable(way: str) -> str:
    raise Unprintable(way)


def answer_unprintable(way: str) -> str:
    raise HTTPException(409, cast(Any, {"of": Unprintable(way)}))


class UnprintableStatus(HTTPException):
    @property
    def headers(self) -> Any:
        return leave("exit")

    @headers.setter
    def headers(self, _given: Any) -> None:
        """Keep nothing."""


def answer_without_headers(_way: str) -> str:
    raise UnprintableStatus(409)


@pytest.mark.parametrize("way", WAYS)
def test_an_exception_whose_text_leaves_is_an_error(way: str) -> None:
    steps = {"text": raise_unprintable, "detail": answer_unprintable, "headers": answer_without_headers}
    made = {
        name: Chain(runnable=RunnableLambda(step), input_type=str, output_type=Any, expose_errors=True)
        for name, step in steps.items()
    }
    with client_of(app_of(made)) as client:
        for name in steps:
            for endpoint in ("invoke", "batch"):
                answer = client.post(f"/{name}/{endpoint}", json={"input": way, "inputs": [way]})
                assert (answer.status_code, answer.json()["code"]) == (500, "internal"), name
            for endpoint in STREAMS:
                with streaming(client, f"/{name}/{endpoint}", way) as reader:
                    assert error_of(reader.rest()[-1])["code"] == "internal"
