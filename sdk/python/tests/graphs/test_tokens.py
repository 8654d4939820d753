"""The reports of a remote graph's messages to a handler that streams messages."""

from types import SimpleNamespace
from typing import Any
from uuid import UUID

from langchain_core.callbacks.base import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from streamserve_sdk.graphs.tokens import Tokens

NODE = UUID(int=1)


class Noted(BaseCallbackHandler):
    """A handler that notes what it is told."""

    tap_output_iter = None
    subgraphs = False

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self.runs: list[UUID] = []

    def on_chat_model_start(self, serialized: Any, messages: Any, **fields: Any) -> None:
        self.runs.append(fields["run_id"])
        self.seen.append(("start", fields["parent_run_id"], fields["metadata"]["langgraph_node"], fields["tags"]))

    def on_llm_new_token(self, token: str, **fields: Any) -> None:
        self.seen.append((self.runs.index(fields["run_id"]), token, fields["chunk"].message.id))

    def on_llm_end(self, response: Any, **fields: Any) -> None:
        self.seen.append((self.runs.index(fields["run_id"]), "end", response.generations[0][0].message.text))

    def on_llm_error(self, error: BaseException, **fields: Any) -> None:
        self.seen.append((self.runs.index(fields["run_id"]), "error", error))


class Events(AsyncCallbackHandler):
    """A handler of events, which are those of subgraphs too."""

    tap_output_iter = None


def tokens(*handlers: Any) -> Tokens:
    run: Any = SimpleNamespace(
        handlers=list(handlers), run_id=NODE, inheritable_tags=["tag"], metadata={"langgraph_node": "remote"}
    )
    return Tokens(run)


def chunk(text: str, name: str) -> Any:
    return AIMessageChunk(text, id=name), {"langgraph_node": "speak"}


def test_each_message_is_one_run_below_the_node() -> None:
    noted = Noted()
    heard = tokens(noted)
    for one in (chunk("a", "1"), chunk("x", "2"), chunk("b", "1"), (AIMessage("whole", id="3"), {})):
        heard.take(one)
        heard.send()
    heard.take((HumanMessage("no model's"), {}))
    heard.close()
    heard.send()
    start = ("start", NODE, "remote", ["tag"])
    assert noted.seen == [
        start, (0, "a", "1"), start, (1, "x", "2"), (0, "b", "1"), start, (2, "end", "whole"),
        (0, "end", "ab"), (1, "end", "x"),
    ]  # fmt: skip


def test_an_error_ends_the_open_messages() -> None:
    noted, error = Noted(), ValueError()
    heard = tokens(noted)
    heard.take(chunk("a", "1"))
    heard.fail(error)
    heard.close()
    heard.send()
    assert noted.seen[2:] == [(0, "error", error)]


def test_only_handlers_that_stream_are_told() -> None:
    assert tokens(Noted()).are_read
    assert tokens(Events()).are_read
    assert not tokens(AsyncCallbackHandler(), BaseCallbackHandler()).are_read
