"""Chunks that are stored as patches reach each reader whole or as patches, from any cursor, replica and store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import jsonpatch
import pytest
from langchain_core.output_parsers import JsonOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableGenerator
from langserve import RemoteRunnable as StockRunnable
from streamserve_sdk import RemoteRunnable
from streamserve_sdk.transport.retry import RetryPolicy

from tests.lcel.test_json_growth import cuts
from tests.limits import LIMIT
from tests.runs.support import app_of
from tests.servers import serving
from tests.stores.servers import shared_redis
from tests.streamed_chains import Sayer

SAYS = (
    '```json\n{"q',
    '": "a',
    "b\\ud83d",
    "\\ude00\u2028",
    '", "n~/": [1',
    ".5, 18446744073709551616",
    '], "type": "hu',
    'man"}',
)
INPUT = {"topic": "cats"}
prompt = ChatPromptTemplate.from_template("{topic}")
FORMS = ("rfc6902", "append")


def chain(says: tuple[str, ...] = SAYS) -> Runnable[Any, Any]:
    """Return a chain that ends with JSON."""
    return prompt | Sayer(says=says) | JsonOutputParser()


STORES = ("memory", "sqlite", "redis")
each_store = pytest.mark.parametrize("store", STORES)


@contextmanager
def replicas(store: str, folder: Path, number: int = 2) -> Iterator[list[str]]:
    """Yield the addresses of servers with one store; in memory there is one server."""
    urls = {"memory": "", "sqlite": f"sqlite:///{folder}/runs.db", "redis": ""}
    url = shared_redis() if store == "redis" else urls[store]
    with ExitStack() as stack:
        count = 1 if store == "memory" else number
        yield [stack.enter_context(serving(app_of({"json": chain()}, store=url))) for _ in range(count)]


def _snapshots() -> list[Any]:
    return list(chain().stream(INPUT))


class Cutting(httpx.HTTPTransport):
    """A transport that cuts the next response of a stream after some bytes."""

    left: int | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        response = super().handle_request(request)
        if self.left is not None and response.headers["content-type"].startswith("text/event-stream"):
            response.stream = Cut(response.stream, self.left)
            self.left = None
        return response


class Cut(httpx.SyncByteStream):
    """The first bytes of a response."""

    def __init__(self, stream: Any, left: int) -> None:
        self.stream, self.left = stream, left

    def __iter__(self) -> Iterator[bytes]:
        for part in self.stream:
            yield part[: self.left]
            self.left -= len(part)
            if self.left <= 0:
                raise httpx.ReadError("cut")

    def close(self) -> None:
        """Close the response."""
        self.stream.close()


@each_store
def test_a_stream_cut_at_any_byte_has_each_chunk_once(store: str, tmp_path: Path) -> None:
    transport = Cutting()
    with replicas(store, tmp_path, 1) as [url], httpx.Client(transport=transport, timeout=LIMIT) as http:
        remote: Any = RemoteRunnable(f"{url}/json", retry=RetryPolicy(first=0.0))
        remote.sync_client = http
        whole = list(remote.stream(INPUT))
        size = len(http.post(f"{url}/json/stream", json={"input": INPUT}, headers=_accept("append")).content)
        assert whole[:3] == [{}, {"q": "a"}, {"q": "ab\ud83d"}]
        for place in range(0, size, 1 if store == "memory" else 13):
            transport.left = place
            assert list(remote.stream(INPUT)) == whole


def _accept(form: str) -> dict[str, str]:
    return {"Accept": f"text/event-stream; patch={form}"} if form else {}


def _chunks(blocks: list[tuple[int, str, str]], known: Any = None) -> list[tuple[int, Any]]:
    """Return the numbers and chunks of blocks."""
    chunks = []
    for number, event, data in blocks:
        if event == "patch":
            for operation in json.loads(data):
                if operation["op"] == "append":
                    before = jsonpatch.JsonPointer(operation["path"]).resolve(known)
                    operation = {**operation, "op": "replace", "value": before + operation["value"]}
                known = jsonpatch.apply_patch(known, [operation])
            chunks.append((number, known))
        elif event == "data":
            chunks.append((number, json.loads(data)))
    return chunks


def _stream(http: httpx.Client, url: str, **asked: Any) -> list[tuple[int, str, str]]:
    answer = http.get(url, **asked)
    assert answer.status_code in (200, 204), answer.text
    blocks = [
        dict(line.split(": ", 1) for line in block.splitlines() if ": " in line) for block in answer.text.split("\n\n")
    ]
    return [(int(each["id"]), each["event"], each.get("data", "")) for each in blocks if "id" in each]


def _poll(http: httpx.Client, url: str, **asked: Any) -> list[tuple[int, str, str]]:
    answer = http.get(url.replace("/stream", "/blocks"), **asked)
    assert answer.status_code in (200, 204), answer.text
    blocks = answer.json()["blocks"] if answer.content else []
    return [(each["id"], each["event"], each["data"]) for each in blocks]


@each_store
@pytest.mark.parametrize("read", [_stream, _poll])
def test_each_reader_gets_the_same_chunks_from_any_cursor(store: str, read: Any, tmp_path: Path) -> None:
    with replicas(store, tmp_path) as urls, httpx.Client(timeout=LIMIT) as http:
        run_id = http.post(f"{urls[0]}/json/stream", json={"input": INPUT}).headers["Run-Id"]
        url = f"{urls[-1]}/runs/{run_id}/stream"
        whole = dict(_chunks(read(http, url)))
        last = max(whole)
        assert list(whole) == list(range(2, len(SAYS) + 2))
        for cursor in range(last + 1):
            rest = [(number, chunk) for number, chunk in whole.items() if number > cursor]
            assert _chunks(read(http, url, params={"after": cursor})) == rest
            for form in FORMS:
                assert _chunks(read(http, url, params={"after": cursor}, headers=_accept(form))) == rest
                going_on = {**_accept(form), "Last-Event-ID": str(cursor)}
                assert _chunks(read(http, url, headers=going_on), whole.get(cursor)) == rest


def test_whole_chunks_are_those_of_the_chain(tmp_path: Path) -> None:
    snapshots = _snapshots()
    with replicas("memory", tmp_path) as [url], httpx.Client(timeout=LIMIT) as http:
        answer = http.post(f"{url}/json/stream", json={"input": INPUT})
        assert [chunk for _, chunk in _chunks(_stream_of(answer))] == [
            json.loads(json.dumps(each)) for each in snapshots
        ]
        assert b'{"/n~0~1/1":"integer","":"snapshot"}' in answer.content
        assert (
            list(islice(StockRunnable(f"{url}/json").stream(INPUT), 2)) == snapshots[:2]
        )  # it reads no half of a pair
        assert list(RemoteRunnable(f"{url}/json").stream(INPUT)) == snapshots
        run_id = answer.headers["Run-Id"]
        assert http.get(f"{url}/runs/{run_id}/output").json()["output"] == snapshots[-1]


def _stream_of(answer: httpx.Response) -> list[tuple[int, str, str]]:
    blocks = [
        dict(line.split(": ", 1) for line in block.splitlines() if ": " in line) for block in answer.text.split("\n\n")
    ]
    return [(int(each["id"]), each["event"], each.get("data", "")) for each in blocks if "id" in each]


def test_a_client_that_joins_in_the_middle_gets_whole_chunks(tmp_path: Path) -> None:
    with replicas("memory", tmp_path) as [url]:
        remote = RemoteRunnable(f"{url}/json")
        runs: list[str] = []
        whole = list(remote.stream(INPUT, on_run=runs.append))
        for after in range(len(whole) + 1):
            assert list(remote.join(runs[0], after + 1)) == whole[after:]


def test_an_unknown_form_is_a_bad_request(tmp_path: Path) -> None:
    with replicas("memory", tmp_path) as [url], httpx.Client(timeout=LIMIT) as http:
        answer = http.post(f"{url}/json/stream", json={"input": INPUT}, headers=_accept("merge"))
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
        assert answer.json()["detail"] == "Accept: the parameter patch is rfc6902 or append"


def test_bytes_per_token_do_not_grow_with_the_answer() -> None:
    text = json.dumps({"items": [f"item-{number}" for number in range(400)]})
    app = app_of({"json": chain(tuple(cuts(text, [6])))})
    with serving(app) as url, httpx.Client(timeout=LIMIT) as http:
        answer = http.post(f"{url}/json/stream", json={"input": INPUT}, headers=_accept("append"))
        blocks = _stream_of(answer)
        assert _chunks(blocks)[-1][1] == json.loads(text)
        assert len(answer.content) / len(blocks) < 120


async def _hinting(chunks: Any) -> Any:
    async for chunk in chunks:
        yield {**chunk, "more": True}


def test_chunks_of_other_steps_stay_whole(tmp_path: Path) -> None:
    app = app_of({"json": chain() | RunnableGenerator(_hinting)})
    with serving(app) as url, httpx.Client(timeout=LIMIT) as http:
        answer = http.post(f"{url}/json/stream", json={"input": INPUT}, headers=_accept("append"))
        assert b"event: patch" not in answer.content
        assert all(chunk["more"] for _, chunk in _chunks(_stream_of(answer)))
