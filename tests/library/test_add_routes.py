"""add_routes in applications of many shapes: each has the runs, and its own rules."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request
from langchain_core.runnables import RunnableConfig, RunnableGenerator, RunnableLambda
from starlette.middleware.base import BaseHTTPMiddleware  # noqa: TID251 - teams use it
from starlette.testclient import TestClient

from streamserve import Chain, Identity, Settings, add_routes, configure
from streamserve.api.services import services_in
from tests.fakes import echo_graph
from tests.limits import LIMIT
from tests.servers import serving

Client = httpx.Client


class Slow:
    """A chain that says one word and does not end by itself; it notes its end."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.runnable = RunnableGenerator(self.words).with_types(input_type=str, output_type=str)

    async def words(self, given: AsyncIterator[str]) -> AsyncIterator[str]:
        async for text in given:
            try:
                yield text
                await asyncio.sleep(10 * LIMIT)  # until it is cancelled
            finally:
                self.closed.set()


def shout() -> Any:
    return RunnableLambda(lambda text: f"{text}!").with_types(input_type=str, output_type=str)


def caller(request: Request, x_user: Annotated[str, Header()]) -> None:
    request.state.principal = x_user


def client_of(url: str, user: str = "ann") -> Client:
    return Client(base_url=url, timeout=LIMIT, headers={"X-User": user})


def as_application(app: FastAPI) -> str:
    add_routes(app, shout(), path="/shout", dependencies=[Depends(caller)])
    return ""


def as_router(app: FastAPI) -> str:
    router = APIRouter(prefix="/v1", dependencies=[Depends(caller)])
    add_routes(router, shout(), path="/shout")
    app.include_router(router)
    return "/v1"


def as_included_before(app: FastAPI) -> str:
    router = APIRouter()
    app.include_router(router, prefix="/v1/{tenant}", dependencies=[Depends(caller)])
    add_routes(router, shout(), path="/shout")
    return "/v1/acme"


def as_nested(app: FastAPI) -> str:
    inner, outer = APIRouter(prefix="/in"), APIRouter(prefix="/out")
    add_routes(inner, shout(), path="/shout")
    outer.include_router(inner)
    app.include_router(outer, prefix="/api", dependencies=[Depends(caller)])
    return "/api/out/in"


def as_mounted(app: FastAPI) -> str:
    sub = FastAPI(dependencies=[Depends(caller)])
    add_routes(sub, shout(), path="/shout")
    app.mount("/sub", sub)
    return "/sub"


SHAPES = [as_application, as_router, as_included_before, as_nested, as_mounted]
Shape = Callable[[FastAPI], str]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)


@shapes
@pytest.mark.parametrize("lifespan", ["on", "off"])
def test_a_stream_names_the_place_at_which_it_resumes(shape: Shape, lifespan: str) -> None:
    app = FastAPI()
    base = shape(app)
    with serving(app, lifespan=lifespan) as url, client_of(url) as client:
        first = client.post(f"{base}/shout/stream", json={"input": "hi"})
        assert first.headers["Location"] == f"{base}/runs/{first.headers['Run-Id']}/stream"
        rest = client.get(first.headers["Location"], headers={"Last-Event-ID": "1"})
        assert first.text.partition("id: 2")[2] == rest.text.partition("id: 2")[2] != ""
        assert client.get(f"{first.headers['Content-Location']}/output").json()["output"] == "hi!"


@shapes
def test_runs_belong_to_the_caller_that_the_team_names(shape: Shape) -> None:
    app = FastAPI()
    base = shape(app)
    with serving(app) as url, client_of(url) as ann, client_of(url, "bob") as bob, Client(base_url=url) as nobody:
        place = ann.post(f"{base}/shout/runs", json={"input": "hi"}).headers["Content-Location"]
        assert (ann.get(place).status_code, bob.get(place).status_code) == (200, 404)
        assert nobody.get(place).status_code == nobody.post(f"{base}/shout/invoke", json={"input": "hi"}).status_code
        assert nobody.get(place).status_code == 422


@shapes
def test_an_idempotency_key_names_one_run(shape: Shape) -> None:
    app = FastAPI()
    base = shape(app)
    key = {"Idempotency-Key": "one"}
    with serving(app) as url, client_of(url) as client:
        answers = [client.post(f"{base}/shout/stream", json={"input": "hi"}, headers=key) for _ in range(2)]
        assert answers[0].headers["Run-Id"] == answers[1].headers["Run-Id"]
        assert client.post(f"{base}/shout/invoke", json={"input": "hi"}, headers=key).json()["output"] == "hi!"


@shapes
def test_sqlite_keeps_runs_in_every_shape(shape: Shape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMSERVE_STORE", f"sqlite:///{tmp_path}/runs.sqlite")
    app = FastAPI()
    base = shape(app)
    with serving(app) as url, client_of(url) as client:
        place = client.post(f"{base}/shout/stream", json={"input": "hi"}).headers["Location"]
    again = FastAPI()
    shape(again)
    with serving(again) as url, client_of(url) as client:
        assert '"hi!"' in client.get(place).text


def test_retention_runs_in_a_mounted_application(tmp_path: Path) -> None:
    app, sub = FastAPI(), FastAPI()
    path = tmp_path / "runs.sqlite"
    configure(sub, settings=Settings(store=f"sqlite:///{path}", retention=0.0, tombstone=0.0, _env_file=None))
    add_routes(sub, shout(), path="/shout")
    app.mount("/sub", sub)
    with serving(app) as url, client_of(url) as client:
        client.post("/sub/shout/stream", json={"input": "hi"})
        runs = services_in(sub).runs
        gone = threading.Event()

        def look() -> None:
            with closing(sqlite3.connect(path)) as database:
                while database.execute("SELECT count(*) FROM runs").fetchone()[0]:
                    pass
            gone.set()

        threading.Thread(target=look, daemon=True).start()
        assert gone.wait(LIMIT)
        assert not runs.reaper.store_down


def test_a_graph_keeps_its_threads_apart() -> None:
    app = FastAPI()
    router = APIRouter(dependencies=[Depends(caller)])
    add_routes(router, echo_graph(), path="/chat")
    app.include_router(router, prefix="/v1")
    body = {"input": {"messages": [["human", "hi"]]}, "config": {"configurable": {"thread_id": "t"}}}
    with serving(app) as url, client_of(url) as ann, client_of(url, "bob") as bob:
        assert ann.post("/v1/chat/invoke", json=body).status_code == 200
        assert ann.get("/v1/chat/threads/t/state").json()["values"]["messages"]
        assert bob.get("/v1/chat/threads/t/state").status_code == 404


def test_routers_with_the_same_paths_keep_their_runs_apart() -> None:
    app = FastAPI()
    for name in ("a", "b"):
        router = APIRouter()
        add_routes(router, RunnableLambda(lambda _text, name=name: name).with_types(input_type=str), path="/chat")
        app.include_router(router, prefix=f"/{name}")
    key = {"Idempotency-Key": "one"}
    with serving(app) as url, client_of(url) as client:
        for name, other in (("a", "b"), ("b", "a")):
            answer = client.post(f"/{name}/chat/stream", json={"input": "x"}, headers=key)
            assert f'data: "{name}"' in answer.text
            assert client.get(f"/{other}/runs/{answer.headers['Run-Id']}").status_code == 404


def test_a_run_is_guarded_as_its_own_chain() -> None:
    def key(wanted: str) -> Any:
        def check(x_key: Annotated[str, Header()] = "") -> None:
            if x_key != wanted:
                raise HTTPException(403, f"only {wanted}")

        return Depends(check)

    app = FastAPI()
    for name in ("red", "blue"):
        add_routes(app, shout(), path=f"/{name}", dependencies=[key(name)])
    with serving(app) as url, client_of(url) as client:
        red, blue = {"X-Key": "red"}, {"X-Key": "blue"}
        run = client.post("/red/runs", json={"input": "x"}, headers=red).headers["Content-Location"]
        assert client.get(run, headers=red).status_code == 200
        assert client.get(run, headers=blue).json() == {"detail": "only red"}
        assert client.get(run).status_code == 403
        assert client.get("/runs/unknown", headers=red).json()["code"] == "not_found"


def test_a_guard_names_the_caller_for_all_chains() -> None:
    async def guard(x_user: Annotated[str, Header()] = "") -> Identity | None:
        return Identity(x_user, frozenset({"chat"})) if x_user else None

    async def who(_text: str, config: RunnableConfig) -> str:
        user = config["configurable"]["langgraph_auth_user"]
        return f"{user.identity} {user.permissions}"

    app, router = FastAPI(), APIRouter()
    configure(app, guard=guard)
    add_routes(app, Chain(runnable=RunnableLambda(who), input_type=str, scopes=["chat"]), path="/who")
    add_routes(app, Chain(runnable=RunnableLambda(who), input_type=str, scopes=["admin"]), path="/other")
    add_routes(router, RunnableLambda(who).with_types(input_type=str), path="/who")
    app.include_router(router, prefix="/v1")
    with serving(app) as url, client_of(url) as client, Client(base_url=url) as nobody:
        for path in ("/who", "/v1/who"):
            assert client.post(f"{path}/invoke", json={"input": "x"}).json()["output"] == "ann ['chat']"
            assert nobody.post(f"{path}/invoke", json={"input": "x"}).json()["code"] == "unauthenticated"
            run = client.post(f"{path}/runs", json={"input": "x"}).headers["Content-Location"]
            assert (client.get(run).status_code, nobody.get(run).status_code) == (200, 401)
        assert client.post("/other/invoke", json={"input": "x"}).status_code == 403


def test_a_guard_of_one_chain_returns_the_name() -> None:
    def guard(x_user: Annotated[str, Header()]) -> str:
        return x_user

    app = FastAPI()
    add_routes(app, shout(), path="/mine", guard=guard)
    add_routes(app, shout(), path="/open")
    with serving(app) as url, client_of(url) as ann, client_of(url, "bob") as bob:
        mine = ann.post("/mine/runs", json={"input": "x"}).headers["Content-Location"]
        assert (ann.get(mine).status_code, bob.get(mine).status_code) == (200, 404)
        shared = ann.post("/open/runs", json={"input": "x"}).headers["Content-Location"]
        assert bob.get(shared).status_code == 200


def test_replaced_dependencies_are_replaced_for_runs_too() -> None:
    async def guard(request: Request) -> None:
        raise HTTPException(401)

    async def test_user(request: Request) -> None:
        request.state.principal = "test"

    app = FastAPI()
    add_routes(app, shout(), path="/shout", dependencies=[Depends(guard)])
    app.dependency_overrides[guard] = test_user
    with TestClient(app) as client:
        answer = client.post("/shout/stream", json={"input": "hi"})
        assert '"hi!"' in answer.text
        assert client.get(answer.headers["Location"]).status_code == 200
        app.dependency_overrides.clear()
        assert client.get(answer.headers["Location"]).status_code == 401


def test_a_test_client_without_lifespan_gets_answers() -> None:
    app = FastAPI()
    add_routes(app, shout(), path="/shout")
    client = TestClient(app)
    for _ in range(2):
        assert client.post("/shout/invoke", json={"input": "hi"}).json()["output"] == "hi!"
        assert '"hi!"' in client.post("/shout/stream", json={"input": "hi"}).text


def test_a_reader_that_leaves_cancels_its_run_behind_middleware() -> None:
    class Passing(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Any:
            return await call_next(request)

    slow, app = Slow(), FastAPI()
    app.add_middleware(Passing)
    add_routes(app, slow.runnable, path="/slow")
    with serving(app) as url, client_of(url) as client:
        with client.stream("POST", "/slow/stream", json={"input": "first"}) as response:
            assert any("first" in line for line in response.iter_lines())
        assert slow.closed.wait(LIMIT)
        run = response.headers["Content-Location"]
        client.get(f"{run}/output", params={"wait": LIMIT})  # until the run has ended, too
        assert client.get(run).json()["status"] == "cancelled"


def test_two_readers_follow_one_run_and_one_cancels_it() -> None:
    slow, app = Slow(), FastAPI()
    add_routes(app, slow.runnable, path="/slow")
    with serving(app) as url, client_of(url) as client:
        run = client.post("/slow/runs", json={"input": "first"}).headers["Content-Location"]
        with client.stream("GET", f"{run}/stream") as reader:
            lines = reader.iter_lines()
            assert any("first" in line for line in lines)
            assert client.post(f"{run}/cancel?wait=10").json()["status"] == "cancelled"
            assert any("cancelled" in line for line in lines)


def test_a_shared_token_reads_one_run() -> None:
    app = FastAPI()
    as_application(app)
    with serving(app) as url, client_of(url) as client, Client(base_url=url) as nobody:
        run = client.post("/shout/runs", json={"input": "hi"}).headers["Content-Location"]
        token = client.post(f"{run}/share", json={}).json()["url"]
        assert '"hi!"' in nobody.get(token).text
        assert nobody.get(run).status_code == 422


def test_large_bodies_are_refused_without_middleware(monkeypatch: pytest.MonkeyPatch) -> None:
    app = FastAPI()
    configure(app, settings=Settings(max_body_bytes=1000, _env_file=None))
    add_routes(app, shout(), path="/shout")
    with serving(app) as url, client_of(url) as client:
        assert client.post("/shout/invoke", json={"input": "x" * 2000}).status_code == 413


def test_an_application_is_configured_once_and_first() -> None:
    app = FastAPI()
    add_routes(app, shout(), path="/shout")
    with pytest.raises(ValueError, match="before the first add_routes"):
        configure(app)


def test_a_record_says_everything_itself() -> None:
    with pytest.raises(TypeError, match="output_type"):
        add_routes(FastAPI(), Chain(runnable=shout()), path="/shout", output_type=str)


def test_a_store_that_cannot_open_fails_each_request(tmp_path: Path) -> None:
    app = FastAPI()
    configure(app, settings=Settings(store=f"sqlite:///{tmp_path}/no/folder/runs.sqlite", _env_file=None))
    add_routes(app, shout(), path="/shout")
    (tmp_path / "no").write_text("a file")
    with serving(app, lifespan="off") as url, client_of(url) as client:
        assert client.post("/shout/invoke", json={"input": "x"}).status_code == 500


def test_feedback_is_for_the_callers_own_runs() -> None:
    app = FastAPI()
    add_routes(app, shout(), path="/shout", dependencies=[Depends(caller)], enable_feedback_endpoint=True)
    with serving(app) as url, client_of(url) as ann, client_of(url, "bob") as bob:
        run = ann.post("/shout/stream", json={"input": "hi"}).headers["Run-Id"]
        given = {"run_id": run, "key": "good", "score": 1}
        assert bob.post("/shout/feedback", json=given).json()["code"] == "not_found"
        refused = ann.post("/shout/feedback", json=given)
        assert refused.status_code == 400
        assert "LangSmith" in refused.json()["detail"]
