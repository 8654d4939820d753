"""Stock clients get from us what they get from a stock LangServe server, and log nothing."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import streamserve_sdk
from fastapi import FastAPI
from langchain_core.output_parsers import JsonOutputParser, StrOutputParser
from langchain_core.runnables import Runnable
from langserve import RemoteRunnable, add_routes

from tests.fakes import Gate, GatedModel
from tests.runs.support import app_of
from tests.servers import serving

pytestmark = [
    pytest.mark.filterwarnings("ignore:astream_log is deprecated"),
    pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince211"),  # raised by langserve
]

LANGCHAIN_JS = "@langchain/core@0.3.80"
TEXT = ("Tokens ", "\u00e9\u4e2d\U0001f600", '\r\n\t\\"', "", "data: x\n\nid: 9", "end")
# A stock server's stream breaks at these.
LINE_BREAKS = ("a\u2028", "b\u2029", "c\u0085", "d")


def says(*tokens: str) -> GatedModel:
    gate = Gate()
    gate.open(10_000)
    return GatedModel(tokens=tokens, gate=gate)


def chains() -> dict[str, Runnable[Any, Any]]:
    return {
        "text": says(*TEXT) | StrOutputParser(),
        "message": says(*TEXT),
        "json": says('{"a": [1', ', 2], "b": ', '"c"}') | JsonOutputParser(),
    }


@dataclass(frozen=True)
class Servers:
    ours: str
    stock: str


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    stock = FastAPI()
    for name, chain in chains().items():
        add_routes(stock, chain.with_types(input_type=Any), path=f"/{name}")
    lines = {"lines": says(*LINE_BREAKS) | StrOutputParser()}
    with serving(app_of({**chains(), **lines}, keepalive=1)) as ours, serving(stock) as theirs:
        yield Servers(ours, theirs)


@pytest.fixture(autouse=True)
def nothing_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG, logger="langserve")
    yield
    assert [record for record in caplog.records if record.name.startswith("langserve")] == []


def without_ids(value: Any) -> Any:
    """Ids and times differ from call to call."""
    if hasattr(value, "model_dump"):
        return {"type": type(value).__name__, **without_ids(value.model_dump())}
    if isinstance(value, dict):
        changing = ("id", "run_id", "parent_ids", "start_time", "end_time", "metadata", "config")
        return {key: without_ids(item) for key, item in value.items() if key not in changing}
    return [without_ids(item) for item in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("name", ["text", "message", "json"])
def test_stream_gives_the_same_chunks(servers: Servers, name: str) -> None:
    ours, stock = (list(RemoteRunnable(f"{url}/{name}").stream("x")) for url in (servers.ours, servers.stock))
    assert without_ids(ours) == without_ids(stock)
    assert len(ours) > 2


@pytest.mark.parametrize("name", ["text", "message", "json"])
async def test_astream_gives_the_same_chunks(servers: Servers, name: str) -> None:
    ours, stock = [
        [chunk async for chunk in RemoteRunnable(f"{url}/{name}").astream("x")] for url in (servers.ours, servers.stock)
    ]
    assert without_ids(ours) == without_ids(stock)


@pytest.mark.parametrize("name", ["text", "message", "json"])
def test_invoke_and_batch_give_the_same_outputs(servers: Servers, name: str) -> None:
    ours, stock = (RemoteRunnable(f"{url}/{name}") for url in (servers.ours, servers.stock))
    assert without_ids(ours.invoke("x")) == without_ids(stock.invoke("x"))
    assert without_ids(ours.batch(["x", "y"])) == without_ids(stock.batch(["x", "y"]))


async def test_astream_log_gives_the_same_output(servers: Servers) -> None:
    ours, stock = [
        [
            op["value"]
            async for patch in RemoteRunnable(f"{url}/text").astream_log("x")
            for op in patch.ops
            if op["path"] == "/streamed_output/-"
        ]
        for url in (servers.ours, servers.stock)
    ]
    assert ours == stock
    assert "".join(ours) == "".join(TEXT)


@pytest.mark.parametrize("diff", [True, False])
async def test_astream_log_takes_diff_as_stock_does(servers: Servers, diff: bool) -> None:
    ours, stock = [
        [[op["path"] for op in patch.ops] async for patch in RemoteRunnable(f"{url}/text").astream_log("x", diff=diff)]
        for url in (servers.ours, servers.stock)
    ]
    assert ours[1:] == stock[1:]
    assert len(ours) > 2


@pytest.mark.parametrize("client", [RemoteRunnable, streamserve_sdk.RemoteRunnable])
@pytest.mark.parametrize("wanted", [True, False])
async def test_a_log_lists_its_chunks_if_asked(servers: Servers, client: Any, wanted: bool) -> None:
    local = chains()["text"]
    ours, theirs = [
        [
            [op["path"] for op in patch.ops if op["path"].count("/") < 3]
            async for patch in each.astream_log("x", with_streamed_output_list=wanted)
        ]
        for each in (client(f"{servers.ours}/text"), local)
    ]
    assert [paths for paths in ours if paths] == [paths for paths in theirs if paths]
    assert (["/streamed_output/-"] in [paths[:1] for paths in ours]) is wanted


async def test_astream_events_gives_the_same_events(servers: Servers) -> None:
    ours, stock = [
        [(event["event"], without_ids(event["data"])) async for event in _events(f"{url}/text")]
        for url in (servers.ours, servers.stock)
    ]
    assert ours == stock
    assert len(ours) > len(TEXT)


def _events(url: str) -> Any:
    return RemoteRunnable(url).astream_events("x", version="v2")


def test_line_separators_in_tokens_do_not_break_the_stock_client(servers: Servers) -> None:
    assert list(RemoteRunnable(f"{servers.ours}/lines").stream("x")) == [*LINE_BREAKS, ""]


@pytest.fixture(scope="session")
def langchain_js(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with LangChain.js and the script that uses it."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("node and npm are not installed")
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("langchain_js")
    command = [npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", LANGCHAIN_JS]
    subprocess.run(command, check=True, capture_output=True, timeout=110)
    shutil.copy(Path(__file__).with_name("stock.mjs"), folder)
    return folder


def call_with_javascript(folder: Path, url: str) -> dict[str, Any]:
    command = ["node", str(folder / "stock.mjs"), url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", ["text", "json"])
def test_langchain_js_gets_the_same_from_us(langchain_js: Path, servers: Servers, name: str) -> None:
    ours, stock = (call_with_javascript(langchain_js, f"{url}/{name}/") for url in (servers.ours, servers.stock))
    assert ours == stock
    assert len(ours["stream"]) > 2


def test_langchain_js_gets_line_separators(langchain_js: Path, servers: Servers) -> None:
    got = call_with_javascript(langchain_js, f"{servers.ours}/lines/")
    chunks = [*LINE_BREAKS, ""]
    assert got == {"stream": chunks, "invoke": "".join(chunks), "log": chunks}
