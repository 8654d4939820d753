"""Endpoints and steps that a record hides: out of reach in every way, as with LangServe's arguments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, get_args

import httpx
import pytest
from fastapi import FastAPI
from langchain_core.runnables import Runnable, RunnableLambda
from langserve import add_routes
from streamserve_sdk import RemoteRunnable, RequestRejected

from streamserve import Chain
from streamserve.app import create_app
from streamserve.catalog.chain import Endpoint
from tests.fakes import registry_of
from tests.frames import chunks, config_hash, events
from tests.runs.support import LIMIT
from tests.servers import serving

HASHED = f"c/{config_hash({})}/"
BODIES: dict[str, Any] = {
    **{name: {"input": "x"} for name in ("invoke", "stream", "stream_log", "stream_events", "runs")},
    "batch": {"inputs": ["x"]},
}
PAGES = ("input_schema", "output_schema", "config_schema", "playground/")
OF_LANGSMITH = {"feedback", "token_feedback", "public_trace_link"}
NAMES = [name for name in get_args(Endpoint) if name not in OF_LANGSMITH]


def kinds(answer: httpx.Response) -> list[str]:
    return [kind for kind, _ in events(answer)]


def shout() -> Runnable[Any, Any]:
    return (RunnableLambda(str.strip) | RunnableLambda(str.upper)).with_types(input_type=str, output_type=str)


LISTS: list[dict[str, Any]] = [
    {},
    *({"disabled_endpoints": [name]} for name in NAMES),
    *({"enabled_endpoints": [name, "config_hashes"]} for name in NAMES),
    {"disabled_endpoints": ("Stream", "CONFIG_HASHES")},
    {"enabled_endpoints": ["invoke"], "disabled_endpoints": []},
    {"enabled_endpoints": [], "disabled_endpoints": ["invoke"]},
]


@contextmanager
def client_of(app: FastAPI) -> Iterator[httpx.Client]:
    with serving(app) as url, httpx.Client(base_url=url, timeout=LIMIT) as client:
        yield client


def served(**fields: Any) -> AbstractContextManager[httpx.Client]:
    """Return a client of a record with these fields, served under /shout."""
    return client_of(create_app(registry_of({"shout": Chain(**{"runnable": shout(), **fields})})))


@pytest.fixture(scope="module")
def ours() -> Iterator[httpx.Client]:
    chains = {f"shout{number}": Chain(runnable=shout(), **lists) for number, lists in enumerate(LISTS)}
    with client_of(create_app(registry_of(chains))) as client:
        yield client


@pytest.fixture(scope="module")
def theirs() -> Iterator[httpx.Client]:
    app = FastAPI()
    for number, lists in enumerate(LISTS):
        add_routes(app, shout(), path=f"/shout{number}", **lists)
    with client_of(app) as client:
        yield client


def reached(client: httpx.Client, root: str = "/shout") -> set[str]:
    """Return the paths of a chain that answer."""
    found = set()
    for prefix in ("", HASHED):
        for name in (*BODIES, *PAGES):
            path = f"{root}/{prefix}{name}"
            answer = client.post(path, json=BODIES[name]) if name in BODIES else client.get(path)
            if answer.status_code == 404:
                continue
            assert answer.is_success, answer.text
            found.add(f"{prefix}{name}")
    return found


@pytest.fixture(scope="module")
def documented(ours: httpx.Client) -> set[str]:
    """Return the paths of the OpenAPI document, which describes those with a hash once for all chains."""
    return set(ours.get("/openapi.json").json()["paths"])


@pytest.mark.parametrize("number", range(len(LISTS)), ids=map(str, LISTS))
def test_an_endpoint_is_off_where_langserve_has_it_off(
    ours: httpx.Client, theirs: httpx.Client, documented: set[str], number: int
) -> None:
    root = f"/shout{number}"
    expected = reached(theirs, root)
    # Our own paths beside those of LangServe: runs in the background are streams.
    expected |= {path.replace("stream", "runs") for path in expected if path.endswith("stream")}
    assert reached(ours, root) == expected
    shown = {f"{root}/{path}" for path in expected if not path.endswith("playground/") and HASHED not in path}
    assert {path for path in documented if path.startswith(f"{root}/")} == shown


def test_all_endpoints_are_on_by_default(ours: httpx.Client) -> None:
    assert reached(ours, "/shout0") == {f"{prefix}{name}" for prefix in ("", HASHED) for name in (*BODIES, *PAGES)}


def test_a_record_without_a_page_keeps_the_page_off() -> None:
    with served(playground=None, enabled_endpoints=["playground"]) as client:
        assert reached(client) == set()


def test_langserves_endpoints_of_feedback_may_be_named() -> None:
    with served(enabled_endpoints=["invoke", *sorted(OF_LANGSMITH)]) as client:
        assert reached(client) == {"invoke"}


def test_the_client_says_that_an_endpoint_is_off() -> None:
    with served(disabled_endpoints=["invoke"]) as client, RemoteRunnable(f"{client.base_url}/shout") as remote:
        assert "".join(remote.stream(" x ")) == "X"
        with pytest.raises(RequestRejected) as raised:
            remote.invoke(" x ")
    assert raised.value.response.status_code == 404


def test_the_home_page_offers_only_what_is_on() -> None:
    parts = ("<form", "/shout/stream", "/shout/invoke", "chain.stream(", "chain.invoke(", "playground/")
    lists: list[tuple[list[str], set[str]]] = [
        ([], {"<form", "/shout/stream", "chain.stream(", "playground/"}),
        (["stream", "playground"], {"/shout/invoke", "chain.invoke("}),
        (["stream", "invoke"], {"playground/"}),
    ]
    for disabled, shown in lists:
        with served(disabled_endpoints=disabled) as client:
            page = client.get("/").text
        assert 'id="shout"' in page
        assert {part for part in parts if part in page} == shown


@pytest.mark.parametrize("endpoint", ["stream_log", "stream_events"])
def test_steps_are_hidden_where_langserve_hides_them(endpoint: str) -> None:
    named, app = shout().with_config(run_name="shout"), FastAPI()
    lists: list[list[str]] = [[], ["shout"], ["other", "RunnableLambda"]]
    for number, names in enumerate(lists):
        add_routes(app, named, path=f"/shout{number}", stream_log_name_allow_list=names)
    chains = [Chain(runnable=named, stream_log_name_allow_list=names) for names in lists]
    own = create_app(registry_of({f"shout{number}": chain for number, chain in enumerate(chains)}))
    with client_of(own) as ours, client_of(app) as theirs:
        for number, names in enumerate(lists):
            answers = [each.post(f"/shout{number}/{endpoint}", json={"input": "x"}) for each in (ours, theirs)]
            assert [kinds(answer)[-1] for answer in answers] == ["end", "end"]
            assert kinds(answers[0]).count("data") == kinds(answers[1]).count("data")
            assert ("data" in kinds(answers[0])) == ("shout" in names)


def test_a_chain_without_a_run_name_has_its_own_name() -> None:
    named = RunnableLambda(str.upper, name="upper").with_types(input_type=str, output_type=str)
    for names, shown in ((["upper"], True), (["RunnableLambda"], False)):
        with served(runnable=named, stream_log_name_allow_list=names) as client:
            assert bool(chunks(client.post("/shout/stream_log", json={"input": "x"}))) == shown


def test_events_of_version_3_are_hidden_too() -> None:
    body = {"input": "x", "kwargs": {"version": "v3"}}
    for names, shown in ((["shout"], True), ([], False)):
        with served(runnable=shout().with_config(run_name="shout"), stream_log_name_allow_list=names) as client:
            assert bool(chunks(client.post("/shout/stream_events", json=body))) == shown


def test_hidden_steps_leave_the_output_whole() -> None:
    with served(stream_log_name_allow_list=[]) as client:
        assert chunks(client.post("/shout/stream", json={"input": "x"})) == ["X"]
        run_id = client.post("/shout/stream_log", json={"input": "x"}).headers["Run-Id"]
        assert client.get(f"/runs/{run_id}/output").json()["output"] == "X"
