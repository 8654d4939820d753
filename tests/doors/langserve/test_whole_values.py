"""Nothing is dropped: a caller of any endpoint gets what the chain gives, and the chain what the caller gives."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from enum import Enum
from operator import itemgetter
from typing import Any, Literal

import httpx
import pytest
from langchain_core.agents import AgentActionMessageLog
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.output_parsers import JsonOutputParser
from langchain_core.prompt_values import ChatPromptValue
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableLambda, RunnableParallel, RunnablePassthrough
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from pydantic import BaseModel, ConfigDict, Field
from streamserve_sdk import RemoteRunnable
from typing_extensions import TypedDict

from streamserve import Chain
from streamserve.app import create_app
from tests.fakes import registry_of
from tests.frames import events
from tests.runs.support import LIMIT
from tests.servers import serving

JSON = {"Content-Type": "application/json"}
LARGE = 2**70 + 1
CALL = AIMessage(
    "",
    id="m1",
    tool_calls=[{"name": "f", "args": {"a": 1}, "id": "c1"}],
    usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
)
RESULT = ToolMessage("3", tool_call_id="c1", artifact={"rows": (1, 2)})


class Talk(BaseModel):
    messages: list[BaseMessage]
    documents: list[Any] = []


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")

    known: int = 1


class Aliased(BaseModel):
    user_name: str = Field(alias="userName")


class Turn(BaseModel):
    type: Literal["human", "ai"] = "human"
    content: str = "hi"
    mood: str = "glad"


class Kind(Enum):
    HUMAN = "human"


@dataclass
class Spoken:
    type: Kind
    content: str
    _mood: str


class Named(TypedDict):
    name: str


class Folder(TypedDict):
    root: str
    files: list[str]


def gives(value: Any) -> Runnable[Any, Any]:
    return RunnableLambda(lambda _: value)


def named(_: Any) -> Named:
    return {"name": "Ann", "age": 3}  # type: ignore[typeddict-unknown-key]


def aliased(_: Any) -> Aliased:
    return Aliased(userName="Ann")


def counted(_: Any) -> int:
    return "three"  # type: ignore[return-value]


def include_raw() -> Runnable[Any, Any]:
    """Return what `with_structured_output(include_raw=True)` makes."""
    parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | JsonOutputParser(), parsing_error=lambda _: None)
    unparsed = RunnablePassthrough.assign(parsed=lambda _: None)
    raw = RunnableParallel(raw=FakeListChatModel(responses=['{"name": "Ann"}']))
    return raw | parsed.with_fallbacks([unparsed], exception_key="parsing_error")


def folder() -> Any:
    graph = StateGraph(Folder).add_node("n", lambda _: {"files": ["a"]}).add_edge(START, "n")
    return graph.compile()


def asking() -> Any:
    graph = StateGraph(Folder).add_node("n", lambda _: {"files": [interrupt("which?")]}).add_edge(START, "n")
    return graph.compile()


async def halves(_: Any) -> AsyncIterator[str]:
    yield "hi \ud83d"
    yield "\ude00"


def text_of(prompt: Any) -> str:
    return str(prompt.to_messages()[-1].content)


OUTPUTS: dict[str, Runnable[Any, Any]] = {
    "undeclared": RunnableLambda(named),
    "root": gives({"root": "/etc", "other": 1}),
    "open": gives(Open(known=2, more=(1, 2))),  # type: ignore[call-arg]
    "aliased": RunnableLambda(aliased),
    "mistyped": RunnableLambda(counted),
    "raw": include_raw(),
    "talk": gives(Talk(messages=[CALL, RESULT], documents=[Document("d", id="1")])),
    "talks": gives([(Talk(messages=[CALL]),)]),
    "prompt": gives(ChatPromptValue(messages=[CALL, RESULT])),
    "step": gives(AgentActionMessageLog(tool="t", tool_input="i", log="", message_log=[CALL])),
    "turn": gives({"turn": Turn()}),
    "spoken": gives(Spoken(Kind.HUMAN, "hi", "glad")),
    "large": gives({"n": [LARGE, -LARGE]}),
    "half": gives({"text": "hi \ud83d"}),
}
CHAINS = {
    **{name: Chain(runnable=runnable, input_type=str) for name, runnable in OUTPUTS.items() if name != "raw"},
    "raw": Chain(runnable=include_raw()),
    "halves": Chain(runnable=RunnableGenerator(halves), input_type=str),
    "object": Chain(runnable=gives({"a": [1, object()]}), input_type=str),
    "declared": Chain(runnable=gives({"name": "Ann", "age": 3}), input_type=str, output_type=Named),
    "by-alias": Chain(runnable=gives(Aliased(userName="Ann")), input_type=str, output_type=Aliased),
    "half-text": Chain(runnable=gives("hi \ud83d"), input_type=str, output_type=str),
    "asking": Chain(runnable=asking(), output_type=Folder),
    "no-message": Chain(runnable=gives([1]), input_type=str, output_type=AnyMessage),
    "wrong": Chain(runnable=gives({"age": 3}), input_type=str, output_type=Named),
    "folder": Chain(runnable=folder()),
    "open-in": Chain(runnable=RunnableLambda(dict), input_type=Open, examples=[{"known": 3}]),
    "alias-in": Chain(runnable=RunnableLambda(dict), input_type=Aliased),
    "said": Chain(runnable=RunnableLambda(repr), input_type=Any),
    "keys": Chain(runnable=RunnableParallel(all=RunnablePassthrough(), one=itemgetter("x"))),
    "variable": Chain(runnable=ChatPromptTemplate.from_template("{schema} {json} {_x}") | RunnableLambda(text_of)),
    "parallel": Chain(runnable=RunnableParallel(a=ChatPromptTemplate.from_template("{schema} {q}"))),
    "assigned": Chain(
        runnable=RunnablePassthrough.assign(schema=lambda _: "t(a)")
        | ChatPromptTemplate.from_template("{schema} {q}")
        | RunnableLambda(text_of)
    ),
    "optional": Chain(
        runnable=RunnablePassthrough.assign(seen=lambda given: sorted(given))
        | RunnableParallel(
            seen=itemgetter("seen"),
            text=ChatPromptTemplate.from_messages([MessagesPlaceholder("past", optional=True), ("human", "{q}")])
            | RunnableLambda(text_of),
        )
    ),
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(create_app(registry_of(CHAINS))) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=LIMIT) as client:
        yield client


def invoked(client: httpx.Client, name: str, value: Any = "x") -> Any:
    answer = client.post(f"/{name}/invoke", json={"input": value})
    assert answer.status_code == 200, answer.text
    return answer.json()["output"]


def data_of(client: httpx.Client, name: str, value: Any = "x") -> list[Any]:
    answer = client.post(f"/{name}/stream", json={"input": value})
    return [data for kind, data in events(answer) if kind == "data"]


# Outputs


@pytest.mark.parametrize("name", [name for name in OUTPUTS if name != "raw"])
def test_invoke_and_batch_give_what_stream_gives(client: httpx.Client, name: str) -> None:
    (streamed,) = data_of(client, name)
    assert invoked(client, name) == streamed
    answer = client.post(f"/{name}/batch", json={"inputs": ["x", "y"]}).json()
    assert answer["output"] == [streamed, streamed]
    assert [item["run_id"] for item in answer["metadata"]["responses"]] == answer["metadata"]["run_ids"]
    assert len(set(answer["metadata"]["run_ids"])) == 2


def test_undeclared_keys_of_an_output_stay(client: httpx.Client) -> None:
    assert invoked(client, "undeclared") == {"name": "Ann", "age": 3}
    assert invoked(client, "root") == {"root": "/etc", "other": 1}
    assert invoked(client, "open") == {"known": 2, "more": [1, 2]}
    assert invoked(client, "folder", {"root": "/etc"}) == {"root": "/etc", "files": ["a"]}


def test_a_type_that_nobody_declared_refuses_nothing(client: httpx.Client) -> None:
    assert invoked(client, "mistyped") == "three"
    made = invoked(client, "raw", "who?")
    assert (made["raw"]["type"], made["parsed"], made["parsing_error"]) == ("ai", {"name": "Ann"}, None)


def test_a_declared_type_refuses_what_does_not_fit(client: httpx.Client) -> None:
    for path, body in (("invoke", {"input": "x"}), ("batch", {"inputs": ["x"]})):
        answer = client.post(f"/wrong/{path}", json=body)
        assert (answer.status_code, answer.json()["code"]) == (500, "invalid_output")
    assert client.post("/no-message/invoke", json={"input": "x"}).json()["code"] == "invalid_output"
    several = client.post("/wrong/batch", json={"inputs": ["x"], "kwargs": {"return_exceptions": True}}).json()
    assert [error["code"] for error in several["errors"]] == ["invalid_output"]


def test_a_declared_type_changes_no_output(client: httpx.Client) -> None:
    assert invoked(client, "declared") == {"name": "Ann", "age": 3}
    assert invoked(client, "by-alias") == {"user_name": "Ann"}
    assert invoked(client, "half-text") == "hi \ud83d"
    assert invoked(client, "asking", {"root": "/etc"})["__interrupt__"][0]["value"] == "which?"


@pytest.mark.parametrize("name", ["talk", "prompt"])
def test_messages_inside_of_objects_are_whole(client: httpx.Client, name: str) -> None:
    for made in (invoked(client, name), *data_of(client, name)):
        call, result = made["messages"]
        assert (call["id"], call["tool_calls"][0]["id"], call["usage_metadata"]["total_tokens"]) == ("m1", "c1", 3)
        assert (result["tool_call_id"], result["artifact"]) == ("c1", {"rows": [1, 2]})


def test_events_have_whole_messages_inside_of_objects(client: httpx.Client) -> None:
    answer = client.post("/talk/stream_events", json={"input": "x"})
    ends = [data for kind, data in events(answer) if kind == "data" and data["event"] == "on_chain_end"]
    assert ends[-1]["data"]["output"]["messages"][0]["tool_calls"][0]["id"] == "c1"


def test_a_provider_may_cut_an_emoji_in_half(client: httpx.Client) -> None:
    found = events(client.post("/halves/stream", json={"input": "x"}))
    assert [data for kind, data in found if kind == "data"] == ["hi \ud83d", "\ude00"]
    assert found[-1][0] == "end"


def test_what_has_no_json_form_is_named_with_its_place(client: httpx.Client) -> None:
    answer = client.post("/object/invoke", json={"input": "x"})
    assert (answer.status_code, answer.json()["code"]) == (500, "invalid_output")
    assert "object at /a/1" in answer.text


@pytest.mark.parametrize("call", ["invoke", "stream", "batch"])
def test_the_client_gets_outputs_as_in_process(url: str, call: str) -> None:
    def got(name: str) -> Any:
        with RemoteRunnable(f"{url}/{name}") as remote:
            if call == "stream":
                return list(remote.stream("x"))[-1]
            return remote.invoke("x") if call == "invoke" else remote.batch(["x"])[0]

    assert got("turn") == {"turn": {"type": "human", "content": "hi", "mood": "glad"}}
    assert got("spoken") == {"type": "human", "content": "hi", "_mood": "glad"}
    assert got("talk") == {"messages": [CALL, RESULT], "documents": [Document("d", id="1")]}
    assert got("prompt") == ChatPromptValue(messages=[CALL, RESULT])
    assert got("step").message_log == [CALL]
    assert got("large") == {"n": [LARGE, -LARGE]}
    assert got("half") == {"text": "hi \ud83d"}
    assert got("open") == {"known": 2, "more": (1, 2)}


# Inputs


def test_undeclared_keys_of_an_input_stay(client: httpx.Client) -> None:
    assert invoked(client, "open-in", {"known": 2, "more": 3}) == {"known": 2, "more": 3}
    assert invoked(client, "keys", {"x": 1, "y": 2}) == {"all": {"x": 1, "y": 2}, "one": 1}


def test_large_integers_of_an_input_are_exact(client: httpx.Client, url: str) -> None:
    assert invoked(client, "said", [LARGE, "1" * 30]) == repr([LARGE, "1" * 30])
    keyed = {"json": {"input": {"n": LARGE}}, "headers": {"Idempotency-Key": "large"}}
    first, second = (client.post("/said/stream", **keyed) for _ in range(2))  # type: ignore[arg-type]
    assert first.headers["Run-Id"] == second.headers["Run-Id"]
    refused = client.post("/said/invoke", content=b'{"input": 1%s}' % (b"0" * 5000), headers=JSON)
    assert refused.status_code == 422
    with RemoteRunnable(f"{url}/said") as remote:
        assert remote.invoke({"n": LARGE}) == repr({"n": LARGE})


def test_an_input_with_aliases_fits_its_own_model(url: str) -> None:
    with RemoteRunnable(f"{url}/alias-in") as remote:
        assert remote.invoke(Aliased(userName="Ann")) == {"user_name": "Ann"}


def test_messages_inside_of_an_inputs_objects_are_whole(url: str) -> None:
    with RemoteRunnable(f"{url}/said") as remote:
        said = remote.invoke(Talk(messages=[CALL, RESULT], documents=[Document("d", metadata={"at": (1,)})]))
    assert said == repr({"messages": [CALL, RESULT], "documents": [Document("d", metadata={"at": (1,)})]})


@pytest.mark.parametrize("name", ["schema", "json"])
def test_a_prompts_variable_may_have_any_name(client: httpx.Client, name: str) -> None:
    assert invoked(client, "variable", {"schema": "t(a)", "json": "j", "_x": "x"}) == "t(a) j x"
    refused = client.post("/variable/invoke", json={"input": {"schema": "s", "json": "j", "_x": "x"} | {name: 1}})
    assert refused.json()["detail"][0]["loc"] == ["body", "input", name]


def test_such_a_variable_works_inside_of_other_steps(client: httpx.Client) -> None:
    made = invoked(client, "parallel", {"schema": "t(a)", "q": "why"})
    assert made["a"]["messages"][0]["content"] == "t(a) why"
    assert invoked(client, "assigned", {"q": "why"}) == "t(a) why"
    assert "schema" in client.get("/parallel/input_schema").json()["properties"]


def test_an_optional_placeholder_is_not_sent_as_null(client: httpx.Client) -> None:
    assert invoked(client, "optional", {"q": "why"}) == {"seen": ["q"], "text": "why"}
    given = {"q": "why", "past": [["human", "hi"]]}
    assert invoked(client, "optional", given) == {"seen": ["past", "q"], "text": "why"}


def test_a_local_prompt_sends_whole_messages(url: str) -> None:
    prompt = ChatPromptTemplate.from_messages([MessagesPlaceholder("past"), ("human", "{q}")])
    past: list[Any] = [CALL, RESULT]
    with RemoteRunnable(f"{url}/said") as remote:
        assert (prompt | remote).invoke({"past": past, "q": "x"}) == repr({"messages": [*past, HumanMessage("x")]})
