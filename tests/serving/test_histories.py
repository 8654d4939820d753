"""Histories of RunnableWithMessageHistory: a session needs its keys, and belongs to its principal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import (
    ConfigurableFieldSpec,
    Runnable,
    RunnableConfig,
    RunnableLambda,
    RunnableWithMessageHistory,
)
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from streamserve import Chain
from streamserve.app import create_app
from streamserve.call import Call, current_call
from streamserve.serving.histories import histories_in, keep_apart
from streamserve.settings import Settings
from tests.fakes import registry_of
from tests.frames import chunks, config_hash
from tests.runs.support import caller, client_of

pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.deprecation.LangChainDeprecationWarning")

INPUT = {"question": "q"}
KEYS = [ConfigurableFieldSpec(id=name, annotation=str, default="") for name in ("user", "topic")]


class Question(TypedDict):
    question: str


class Answer(TypedDict, total=False):
    question: str
    answer: str


class Store:
    """The sessions of histories, by the ids with which they were opened."""

    def __init__(self) -> None:
        self.kept: dict[Any, InMemoryChatMessageHistory] = {}

    def one(self, session_id: str) -> InMemoryChatMessageHistory:
        return self.kept.setdefault(session_id, InMemoryChatMessageHistory())

    def two(self, user: str, topic: str) -> InMemoryChatMessageHistory:
        return self.one(f"{user}/{topic}")

    def none(self) -> InMemoryChatMessageHistory:
        return self.one("")


def with_history(make: Callable[..., Any], **options: Any) -> Runnable[Any, Any]:
    """Return a chain that answers with all that it has been asked and has answered."""
    seen = RunnableLambda(lambda value: AIMessage(" ".join([*(m.text for m in value["history"]), value["question"]])))
    history = RunnableWithMessageHistory(
        seen, make, input_messages_key="question", history_messages_key="history", **options
    )
    return history | RunnableLambda(lambda message: message.text)


def in_language(make: Callable[..., Any]) -> Runnable[Any, Any]:
    """Return a history around a prompt with a variable that its inferred input type does not have."""
    prompt = ChatPromptTemplate([("system", "Speak {language}."), MessagesPlaceholder("history"), "{question}"])
    return RunnableWithMessageHistory(
        prompt | RunnableLambda(lambda value: value.to_string()),
        make,
        input_messages_key="question",
        history_messages_key="history",
    )


def in_graph(make: Callable[..., Any]) -> Any:
    history = with_history(make)

    async def ask(state: Question, config: RunnableConfig) -> Answer:
        return {"answer": await history.ainvoke({"question": state["question"]}, config)}

    return StateGraph(Answer).add_node("ask", ask).add_edge(START, "ask").compile()


def app_of(guard: Any = caller, **chains: Chain) -> Any:
    return create_app(registry_of(chains), Settings(_env_file=None, insecure_public=True), guard=guard)


def chain_of(runnable: Runnable[Any, Any], **record: Any) -> Chain:
    return Chain(runnable=runnable, input_type=Question, output_type=str, **record)


@pytest.fixture(scope="module")
def store() -> Store:
    return Store()


@pytest.fixture(scope="module")
def client(store: Store) -> Iterator[httpx.Client]:
    chains = {
        "one": chain_of(with_history(store.one)),
        "two": chain_of(with_history(store.two, history_factory_config=KEYS)),
        "none": chain_of(with_history(store.none)),
        "bound": chain_of(with_history(store.one).with_config(configurable={"session_id": "bound"})),
        "prompt": chain_of(in_language(store.one)),
        "shared": chain_of(with_history(store.one), share_sessions=True),
    }
    with client_of(app_of(**chains)) as client:
        yield client


def ask(client: httpx.Client, path: str, who: str = "ann", question: str = "q", **configurable: Any) -> httpx.Response:
    body = {"input": {"question": question}, "config": {"configurable": configurable}}
    return client.post(path, json=body, headers={"X-Caller": who})


def missing(answer: httpx.Response) -> list[list[Any]]:
    assert answer.status_code == 422, answer.text
    assert {error["type"] for error in answer.json()["detail"]} == {"missing"}
    return [error["loc"] for error in answer.json()["detail"]]


@pytest.mark.parametrize("endpoint", ["invoke", "stream", "stream_log", "stream_events", "runs"])
@pytest.mark.parametrize("config", [None, {}, {"configurable": {}}, {"configurable": {"session_id": ""}}])
def test_a_session_without_its_key_is_refused(endpoint: str, config: Any, client: httpx.Client, store: Store) -> None:
    answer = client.post(f"/one/{endpoint}", json={"input": INPUT, "config": config})
    assert missing(answer) == [["body", "config", "configurable", "session_id"]]
    assert "" not in store.kept


def test_a_session_may_be_named_by_a_number(client: httpx.Client) -> None:
    first, second = (ask(client, "/one/invoke", question=each, session_id=7).json()["output"] for each in "ab")
    assert (first, second) == ("a", "a a b")
    assert ask(client, "/one/invoke", question="c", session_id="7").json()["output"] == "a a b a a b c"


def test_each_missing_key_of_a_history_is_named(client: httpx.Client) -> None:
    places = missing(ask(client, "/two/invoke"))
    assert places == [["body", "config", "configurable", key] for key in ("user", "topic")]
    assert missing(ask(client, "/two/stream", user="u")) == places[1:]
    assert ask(client, "/two/invoke", user="u", topic="t").status_code == 200


def test_a_batch_needs_a_session_for_each_input(client: httpx.Client) -> None:
    configs = [{"configurable": {"session_id": "b"}}, {}]
    answer = client.post("/one/batch", json={"inputs": [INPUT, INPUT], "config": configs})
    assert missing(answer) == [["body", "config", 1, "configurable", "session_id"]]
    assert missing(client.post("/one/batch", json={"inputs": [INPUT]}))
    named = client.post("/one/batch", json={"inputs": [INPUT], "config": configs[0]})
    assert named.json()["output"] == ["q"]


def test_a_session_in_the_path_counts(client: httpx.Client) -> None:
    path = f"/one/c/{config_hash({'configurable': {'session_id': 'in path'}})}/invoke"
    assert client.post(path, json={"input": INPUT}).json()["output"] == "q"
    assert client.post(path, json={"input": INPUT}).json()["output"] == "q q q"


def test_a_session_of_the_chain_itself_needs_no_key(client: httpx.Client) -> None:
    for path in ("/bound/invoke", "/bound/stream", "/none/invoke"):
        assert client.post(path, json={"input": INPUT}).status_code == 200
    assert ask(client, "/bound/invoke", "ida").json()["output"] == "q"


@pytest.mark.parametrize("endpoint", ["invoke", "batch", "stream"])
def test_a_session_belongs_to_its_principal(endpoint: str, client: httpx.Client) -> None:
    def say(who: str, text: str) -> str:
        inputs = {"inputs": [{"question": text}]} if endpoint == "batch" else {"input": {"question": text}}
        body = {**inputs, "config": {"configurable": {"session_id": f"my {endpoint}"}}}
        answer = client.post(f"/one/{endpoint}", json=body, headers={"X-Caller": who})
        return "".join(chunks(answer) if endpoint == "stream" else answer.json()["output"])

    assert say("ann", "PIN") == "PIN"
    assert say("bob", "hello") == "hello"
    assert say("ann", "again") == "PIN PIN again"


def test_a_session_of_two_keys_belongs_to_its_principal(client: httpx.Client) -> None:
    assert [ask(client, "/two/invoke", who, user="x", topic="y").json()["output"] for who in ("ann", "bob", "ann")] == [
        "q",
        "q",
        "q q q",
    ]


def test_a_missing_variable_is_not_blamed_on_the_session(client: httpx.Client) -> None:
    answer = ask(client, "/prompt/invoke", session_id="s")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")


def test_a_record_shares_its_sessions(client: httpx.Client, store: Store) -> None:
    said = [ask(client, "/shared/invoke", who, session_id="team").json()["output"] for who in ("ann", "bob")]
    assert said == ["q", "q q q"]
    assert "team" in store.kept


def test_nobody_names_a_session_of_another_principal(client: httpx.Client, store: Store) -> None:
    ask(client, "/one/invoke", "ann", "secret", session_id="mine")
    for name in filter(None, list(store.kept)):
        assert "secret" not in ask(client, "/one/invoke", "eve", session_id=name).json()["output"]


def test_without_authentication_sessions_keep_their_names() -> None:
    store = Store()
    with client_of(app_of(guard=None, one=chain_of(with_history(store.one)))) as client:
        assert ask(client, "/one/invoke", session_id="s").status_code == 200
    assert list(store.kept) == ["s"]


@pytest.mark.parametrize("make", [with_history, in_graph, lambda make: with_history(make).with_fallbacks([])])
def test_histories_are_found_wherever_they_are(make: Callable[..., Runnable[Any, Any]]) -> None:
    store = Store()
    (history,) = histories_in(make(store.one))
    keep_apart([history], "chain")
    keep_apart([history], "chain")
    for who in ("ann", "bob"):
        token = current_call.set(Call(chain="chain", principal=who))
        history.runnable.get_session_history("s")
        current_call.reset(token)
    assert len(store.kept) == 2
    assert "s" not in store.kept
    with pytest.raises(RuntimeError, match="outside of a request"):
        history.runnable.get_session_history("s")
