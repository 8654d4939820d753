"""The caller in a chain: principal, scopes and claims on each endpoint, and nobody but the server sets them."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from secrets import token_urlsafe
from typing import Annotated, Any, Literal

import httpx
import orjson
import pytest
from fastapi import HTTPException, Request
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tracers import LangChainTracer
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import BaseUser, Runtime
from langserve import RemoteRunnable as StockRunnable
from pydantic import Field
from typing_extensions import TypedDict

from streamserve import Chain, Identity, User
from streamserve.app import create_app
from streamserve.call import Call, current_call
from streamserve.catalog.chain import InvalidChain
from streamserve.graphs.checkpoints import Checkpoints
from streamserve.serving.chains import serve
from streamserve.serving.recovery import Recovery
from streamserve.settings import Settings
from streamserve.stores import RunRecord
from streamserve.stores.memory import MemoryStore
from streamserve.user import CONFIG_KEYS
from tests.auth.support import AUDIENCE, ISSUER, SECRET, token
from tests.fakes import greeting, registry_of
from tests.frames import chunks, config_hash
from tests.runs.support import client_of, ended
from tests.servers import serving

pytestmark = pytest.mark.filterwarnings("ignore:astream_log is deprecated")

ENDPOINTS = ("invoke", "batch", "stream", "stream_log", "stream_events", "runs")
CLAIMS = {"tenant": "acme", "groups": ["hr"]}
ANN = User("ann", {"talk"}, CLAIMS)
FALSE = dict(zip(CONFIG_KEYS, ({"identity": "root"}, "root", ["admin"], "root"), strict=True))
FALSE_CONFIGS = {
    "configurable": {"configurable": FALSE},
    "metadata": {"metadata": FALSE},
    "of a graph": {"configurable": {**FALSE, "__pregel_nested": True}},
}


class State(TypedDict, total=False):
    question: str
    answer: str


class Seen:
    """The configs with which chains were called."""

    def __init__(self) -> None:
        self.configs: list[RunnableConfig] = []
        self.users: list[Any] = []

    def chain(self, _: Any, config: RunnableConfig) -> str:
        self.configs.append(config)
        return "done"

    def node(self, _: State, config: RunnableConfig, runtime: Runtime[None]) -> State:
        self.configs.append(config)
        self.users.append(runtime.server_info and runtime.server_info.user)
        return {"answer": "done"}

    def route(self, _: State, config: RunnableConfig) -> str:
        self.configs.append(config)
        return END

    def one(self) -> dict[str, Any]:
        """Return what the only call saw of its caller."""
        (config,) = self.configs
        return caller_in(config)


def caller_in(config: RunnableConfig) -> dict[str, Any]:
    return {key: config["configurable"].get(key) for key in CONFIG_KEYS}


def graph_of(seen: Seen) -> Any:
    builder = StateGraph(State).add_node("node", seen.node).add_edge(START, "node")
    return builder.add_conditional_edges("node", lambda state, config: END).compile()


def guard(request: Request) -> Identity:
    return Identity(request.headers.get("X-Caller", "ann"), frozenset({"talk"}), claims=CLAIMS)


def app_of(guard: Any = guard, **chains: Chain) -> Any:
    return create_app(registry_of(chains), Settings(_env_file=None, insecure_public=True), guard=guard)


def chain_of(runnable: Any, **record: Any) -> Chain:
    return Chain(runnable=runnable, input_type=Any, output_type=Any, **record)


def call(client: httpx.Client, endpoint: str, chain: str = "chain", prefix: str = "", **body: Any) -> httpx.Response:
    """Call an endpoint of a chain and wait for its end."""
    given: Any = {"question": "q"}
    body = {**({"inputs": [given]} if endpoint == "batch" else {"input": given}), **body}
    answer = client.post(f"/{chain}{prefix}/{endpoint}", json=body)
    if endpoint == "runs" and answer.status_code == 202:
        ended(client, answer.json()["run_id"])
    return answer


@pytest.fixture(scope="module")
def all_seen() -> Seen:
    return Seen()


@pytest.fixture
def seen(all_seen: Seen) -> Seen:
    """Return the record of the test's own calls."""
    all_seen.configs.clear()
    all_seen.users.clear()
    return all_seen


@pytest.fixture(scope="module")
def client(all_seen: Seen) -> Iterator[httpx.Client]:
    chains = {"chain": chain_of(RunnableLambda(all_seen.chain)), "graph": Chain(runnable=graph_of(all_seen))}
    with client_of(app_of(**chains)) as client:
        yield client


@pytest.mark.parametrize("chain", ["chain", "graph"])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_chain_knows_its_caller_on_each_endpoint(endpoint: str, chain: str, client: httpx.Client, seen: Seen) -> None:
    assert call(client, endpoint, chain).status_code in (200, 202)
    assert seen.one() == ANN.configurable()
    assert seen.users in ([], [ANN])


def test_events_of_version_3_know_their_caller(client: httpx.Client, seen: Seen) -> None:
    for chain in ("chain", "graph"):
        assert call(client, "stream_events", chain, kwargs={"version": "v3"}).status_code == 200
    assert [caller_in(config) for config in seen.configs] == [ANN.configurable()] * 2


def test_each_input_of_a_batch_knows_its_caller(client: httpx.Client, seen: Seen) -> None:
    client.post("/chain/batch", json={"inputs": ["a", "b"], "config": [{"tags": ["x"]}, {}]})
    client.post("/graph/batch", json={"inputs": [{"question": "a"}, {"question": "b"}]})
    assert [caller_in(config) for config in seen.configs] == [ANN.configurable()] * 4


@pytest.mark.parametrize("config", FALSE_CONFIGS.values(), ids=FALSE_CONFIGS)
@pytest.mark.parametrize("chain", ["chain", "graph"])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_no_caller_says_who_calls(endpoint: str, chain: str, config: Any, client: httpx.Client, seen: Seen) -> None:
    config = copy.deepcopy(config)
    assert call(client, endpoint, chain, config=config).status_code in (200, 202)
    assert call(client, endpoint, chain, f"/c/{config_hash(config)}").status_code in (200, 202)
    assert [caller_in(one) for one in seen.configs] == [ANN.configurable()] * 2
    assert "root" not in str([one.get("metadata") for one in seen.configs])


def test_a_stock_client_in_a_chain_hands_nobody_on(seen: Seen) -> None:
    with serving(app_of(inner=chain_of(RunnableLambda(seen.chain)))) as url:
        remote = StockRunnable(f"{url}/inner")
        remote.invoke("x", {"configurable": User("root", {"admin"}).configurable()})
    assert seen.one() == ANN.configurable()


def test_an_update_of_a_state_knows_its_caller(seen: Seen) -> None:
    builder = StateGraph(State).add_node("node", lambda _: {}).add_edge(START, "node")
    graph = builder.add_conditional_edges("node", seen.route, [END]).compile()
    with client_of(app_of(graph=Chain(runnable=graph))) as client:
        updated = client.post("/graph/threads/t/state", json={"values": {"question": "x"}, "as_node": "node"})
    assert updated.status_code == 200, updated.text
    assert seen.one() == ANN.configurable()


def test_without_authentication_nobody_is_authenticated(seen: Seen) -> None:
    with client_of(app_of(guard=None, chain=chain_of(RunnableLambda(seen.chain)))) as client:
        call(client, "invoke")
    user = seen.one()["langgraph_auth_user"]
    assert (user.identity, user.is_authenticated, user.permissions) == ("anonymous", False, [])


def test_the_claims_of_a_token_reach_the_chain(seen: Seen) -> None:
    issuer = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_secret": SECRET, "secret": SECRET}
    settings = Settings(_env_file=None, auth="jwt:", **issuer)  # type: ignore[arg-type]
    app = create_app(registry_of({"chain": chain_of(RunnableLambda(seen.chain))}), settings)
    claims = ({"tenant": "acme"}, {"x": token_urlsafe(4000)})
    said, large = (token(SECRET, algorithm="HS256", scope="talk", **more) for more in claims)
    with client_of(app) as client:
        header = {"Authorization": f"Bearer {said}"}
        assert client.post("/chain/invoke", json={"input": "x"}, headers=header).status_code == 200
        assert client.post("/session", json={"key": said}).status_code == 200
        assert call(client, "stream").status_code == 200  # with the session's cookie
        assert client.post("/session", json={"key": large}).json()["code"] == "bad_request"
    by_header, by_session = (config["configurable"]["langgraph_auth_user"] for config in seen.configs)
    assert by_header == by_session
    assert (by_header.identity, by_header.permissions, by_header["tenant"]) == ("ann", ["talk"], "acme")


def test_a_guard_that_sets_the_state_may_set_claims(seen: Seen) -> None:
    def by_state(request: Request) -> None:
        request.state.principal, request.state.claims = "ann", CLAIMS

    with client_of(app_of(guard=by_state, chain=chain_of(RunnableLambda(seen.chain)))) as client:
        call(client, "invoke")
    assert seen.one()["langgraph_auth_user"]["tenant"] == "acme"


def test_no_answer_shows_the_claims(client: httpx.Client) -> None:
    modes = {"kwargs": {"stream_mode": ["updates", "values"]}}
    thread = {"config": {"configurable": {"thread_id": "t"}}}
    text = call(client, "stream", "graph", **modes, **thread).text
    text += call(client, "stream_events", "graph", **thread).text
    text += client.get("/graph/threads/t/history").text
    for secret in ("acme", "langgraph_auth", "streamserve_principal"):
        assert secret not in text


def test_a_debug_stream_shows_no_claims(seen: Seen) -> None:
    record = Chain(runnable=graph_of(seen), stream_modes=["debug", "checkpoints"])
    with client_of(app_of(graph=record)) as client:
        answer = call(client, "stream", "graph", kwargs={"stream_mode": ["debug", "checkpoints"]})
        assert chunks(answer)
    assert "acme" not in answer.text
    assert "langgraph_auth" not in answer.text


class Traces:
    """LangSmith's client, as far as a tracer uses it: keeps the metadata of each run."""

    def __init__(self) -> None:
        self.metadata: list[dict[str, Any]] = []
        self.tracing_error_callback = None

    def create_run(self, *_: Any, extra: dict[str, Any], **__: Any) -> None:
        self.metadata.append(extra["metadata"])

    def update_run(self, *_: Any, **__: Any) -> None:
        """Keep nothing."""


class Counter(BaseCallbackHandler):
    """A handler that counts runs."""

    def __init__(self) -> None:
        self.runs = 0

    def on_chain_start(self, *_: Any, parent_run_id: Any = None, **__: Any) -> None:
        self.runs += parent_run_id is None


@pytest.mark.parametrize("chain", ["chain", "graph"])
def test_a_trace_names_the_principal(chain: str, seen: Seen) -> None:
    traces = Traces()

    def traced(config: Any, _: Request) -> Any:
        return {**config, "callbacks": [LangChainTracer(client=traces)]}  # type: ignore[arg-type]

    runnable = RunnableLambda(seen.chain) if chain == "chain" else graph_of(seen)
    types = {} if chain == "graph" else {"input_type": Any, "output_type": Any}
    with client_of(app_of(chain=Chain(runnable=runnable, config=traced, **types))) as client:
        call(client, "invoke")
    assert traces.metadata
    assert {metadata["streamserve_principal"] for metadata in traces.metadata} == {"ann"}
    assert "acme" not in str(traces.metadata)


# What LangGraph and its documentation do with a user


def test_a_user_is_langgraphs_user() -> None:
    assert isinstance(ANN, BaseUser)
    assert (ANN.identity, ANN["identity"], ANN.display_name, ANN.permissions) == ("ann", "ann", "ann", ["talk"])
    assert (ANN.get("tenant"), ANN.get("no")) == ("acme", None)
    assert "tenant" in ANN
    assert set(ANN) == {"identity", "display_name", "is_authenticated", "permissions", "tenant", "groups"}
    assert User("u", claims={"name": "Ann B", "identity": "root"}).display_name == "Ann B"
    assert User("u", claims={"identity": "root"})["identity"] == "u"


def test_a_user_is_copied_and_shown_without_claims() -> None:
    assert pickle.loads(pickle.dumps(ANN)) == copy.deepcopy(ANN) == ANN
    assert "acme" not in repr(ANN) + json.dumps(ANN.public())


# Recovery


async def test_a_recovered_run_has_the_caller_with_whom_it_began(seen: Seen) -> None:
    entry = registry_of({"graph": Chain(runnable=graph_of(seen))}).chains["graph"]
    checkpoints = Checkpoints(Settings(_env_file=None))
    served = serve(entry, keeps=True)
    checkpoints.adopt(served.graph)
    recovery, store = Recovery({"graph": served}, checkpoints), MemoryStore()
    first = Call(chain="graph", principal="ann", user=ANN, configs=[{"tags": ["x"]}])
    first.config = {"configurable": {"thread_id": "t"}, "run_id": first.run_id}
    packed = recovery.pack(served, {"input": {"question": "q"}}, first, "continue", None)
    record = RunRecord(first.run_id, "graph", "runs", "ann", first.started_at, request=packed)
    attempt = await recovery.attempt(record, store, Settings(_env_file=None))
    assert attempt is not None
    again = attempt.context.run(current_call.get)
    assert again is not None
    assert again.user == ANN
    again.lock = None
    current_call.set(again)
    assert [chunk async for chunk in served.continued({"question": "q"}, again.config)]  # type: ignore[arg-type]
    assert seen.one() == ANN.configurable()


def test_claims_that_json_lacks_are_not_recovered(seen: Seen) -> None:
    def odd(_: Request) -> Identity:
        return Identity("ann", claims={"object": object()})

    with client_of(app_of(guard=odd, graph=Chain(runnable=graph_of(seen), recover=True))) as client:
        assert call(client, "stream", "graph").status_code == 200
        body = {"input": {"question": "q"}}
        refused = client.post("/graph/stream", json=body, headers={"Run-Recover": "true"})
    assert (refused.status_code, refused.json()["code"]) == (400, "bad_request")
    assert orjson.loads(refused.content)["detail"].startswith("Run-Recover: ")


# The record's function of config and request


class Functions:
    """Functions of config and request, and the handler that one of them adds."""

    def __init__(self) -> None:
        self.counter = Counter()

    def by_header(self, config: dict[str, Any], request: Request) -> dict[str, Any]:
        assert config["configurable"]["langgraph_auth_user"] == ANN
        sent = {name: value for name, value in config["configurable"].items() if name not in CONFIG_KEYS}
        secret = request.headers.get("X-Secret", "none")
        made = {**sent, "secret": secret, "object": self, "langgraph_auth_user_id": "root"}
        return {**config, "configurable": made, "tags": ["tagged"], "callbacks": [self.counter], "run_id": "0"}

    async def in_time(self, config: dict[str, Any], request: Request) -> dict[str, Any]:
        return self.by_header(config, request)

    def refuse(self, _config: dict[str, Any], _request: Request) -> dict[str, Any]:
        raise HTTPException(402, "Pay first")

    def fail(self, _config: dict[str, Any], _request: Request) -> dict[str, Any]:
        raise ValueError("a secret")

    def on_thread(self, config: dict[str, Any], _request: Request) -> dict[str, Any]:
        return {**config, "configurable": {**config["configurable"], "thread_id": "fixed"}}

    def on_template(self, config: dict[str, Any], _request: Request) -> dict[str, Any]:
        return {**config, "configurable": {"template": "Ho {name}."}}


@pytest.fixture(scope="module")
def functions() -> Functions:
    return Functions()


@pytest.fixture(scope="module")
def changed(all_seen: Seen, functions: Functions) -> Iterator[httpx.Client]:
    def look() -> Any:
        return RunnableLambda(all_seen.chain)

    chains = {
        "sync": chain_of(look(), config=functions.by_header, configurable={"own": int}),
        "async": chain_of(look(), config=functions.in_time),
        "graph": Chain(runnable=graph_of(all_seen), config=functions.by_header, recover=True),
        "refuse": chain_of(look(), config=functions.refuse),
        "fail": chain_of(look(), config=functions.fail),
        "thread": Chain(runnable=graph_of(all_seen), config=functions.on_thread),
        "prompt": Chain(
            runnable=greeting(), config=lambda config, _: {**config, "configurable": {"template": "Ho {name}."}}
        ),
    }
    with client_of(app_of(**chains)) as client:
        client.headers["X-Secret"] = "s3"
        yield client


@pytest.mark.parametrize("chain", ["sync", "async", "graph"])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_records_function_makes_the_config(
    endpoint: str, chain: str, changed: httpx.Client, seen: Seen, functions: Functions
) -> None:
    functions.counter.runs = 0
    assert call(changed, endpoint, chain).status_code in (200, 202)
    (config,) = seen.configs
    assert config["configurable"]["secret"] == "s3"
    assert config["configurable"]["object"] is functions
    assert "tagged" in config["tags"] or chain == "graph"
    assert seen.one() == ANN.configurable()
    assert functions.counter.runs == 1


def test_the_function_sees_each_config_of_a_batch(changed: httpx.Client, seen: Seen) -> None:
    configs = [{"configurable": {"own": 1}}, {"configurable": {"own": 2}}]
    assert changed.post("/sync/batch", json={"inputs": ["a", "b"], "config": configs}).status_code == 200
    assert sorted(config["configurable"]["own"] for config in seen.configs) == [1, 2]
    refused = changed.post("/sync/invoke", json={"input": "a", "config": {"configurable": {"secret": "mine"}}})
    assert refused.json()["detail"][0]["loc"] == ["body", "config", "configurable", "secret"]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_function_that_refuses_gives_its_status(endpoint: str, changed: httpx.Client, seen: Seen) -> None:
    answer = call(changed, endpoint, "refuse")
    assert (answer.status_code, answer.json()["detail"]) == (402, "Pay first")
    failed = call(changed, endpoint, "fail")
    assert (failed.status_code, failed.json()["code"]) == (500, "internal")
    assert "secret" not in failed.text
    assert not seen.configs


def test_a_function_names_the_thread(changed: httpx.Client) -> None:
    for endpoint in ("invoke", "stream"):
        assert call(changed, endpoint, "thread").status_code == 200
    states = changed.get("/thread/threads/fixed/history").json()
    assert len([state for state in states if not state["next"]]) == 2


def test_the_input_follows_the_functions_config(changed: httpx.Client) -> None:
    for endpoint in ("invoke", "stream"):
        assert "Ho cats." in changed.post(f"/prompt/{endpoint}", json={"input": {"name": "cats"}}).text


def test_a_config_that_json_lacks_is_not_recovered(changed: httpx.Client) -> None:
    body = {"input": {"question": "q"}}
    refused = changed.post("/graph/stream", json=body, headers={"Run-Recover": "true"})
    assert (refused.status_code, refused.json()["code"]) == (400, "bad_request")


# Keys that a runnable reads without declaring them


@pytest.fixture(scope="module")
def declared(all_seen: Seen) -> Iterator[httpx.Client]:
    keys = {"model": Literal["small", "large"], "temperature": Annotated[float, Field(le=1)]}
    chains = {
        "chain": chain_of(RunnableLambda(all_seen.chain), configurable=keys),
        "graph": Chain(runnable=graph_of(all_seen), configurable=keys),
    }
    with client_of(app_of(**chains)) as client:
        yield client


@pytest.mark.parametrize("chain", ["chain", "graph"])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_declared_key_reaches_the_chain(endpoint: str, chain: str, declared: httpx.Client, seen: Seen) -> None:
    config = {"configurable": {"model": "large"}}
    assert call(declared, endpoint, chain, config=config).status_code in (200, 202)
    assert call(declared, endpoint, chain, f"/c/{config_hash(config)}").status_code in (200, 202)
    assert call(declared, endpoint, chain).status_code in (200, 202)
    assert [one["configurable"].get("model") for one in seen.configs] == ["large", "large", None]
    assert not any("temperature" in one["configurable"] for one in seen.configs)


def test_a_declared_key_has_its_type(declared: httpx.Client) -> None:
    for name, value in (("model", "huge"), ("temperature", 2), ("temperature", "hot"), ("other", 1)):
        answer = call(declared, "stream", config={"configurable": {name: value}})
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body", "config", "configurable", name]


@pytest.mark.parametrize("fields", [{"configurable": {CONFIG_KEYS[0]: str}}, {"configurable": {"x": object()}}])
def test_a_record_declares_valid_keys(fields: Any) -> None:
    with pytest.raises(InvalidChain, match="configurable: "):
        Chain(runnable=RunnableLambda(str), **fields)
    with pytest.raises(InvalidChain, match="config: "):
        Chain(runnable=RunnableLambda(str), config=5)  # type: ignore[arg-type]
