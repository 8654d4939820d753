"""The approval chain: a draft waits for a person, who approves, edits or rejects it; nothing is sent before."""

from typing import Any

import pytest
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.messages.tool import tool_call
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import ValidationError

from chains import approval
from chains.approval import chain, drafts, graph, review

THREAD: Any = {"configurable": {"thread_id": "writer"}}
ASKED = chain.examples[0]


@pytest.fixture
def mail() -> Any:
    return graph.copy({"checkpointer": InMemorySaver()})


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Return the list of sent drafts, in order."""
    mails: list[dict[str, str]] = []

    def send(**mail: str) -> str:
        mails.append(mail)
        return "sent"

    monkeypatch.setattr(approval.send_mail, "func", send)
    return mails


def test_a_draft_stops_for_a_person_and_nothing_is_sent(mail: Any, sent: list[dict[str, str]]) -> None:
    (stop,) = mail.invoke(ASKED, THREAD)["__interrupt__"]
    assert stop.value["draft"].keys() == {"to", "subject", "text"}
    assert (stop.value["draft"]["to"], stop.value["choices"]) == ("Ada", ["approve", "reject"])
    assert stop.response_schema["properties"]["type"]["enum"] == ["approve", "edit", "reject"]
    assert sent == []


@pytest.mark.parametrize(
    ("answer", "to"),
    [("approve", "Ada"), ({"type": "approve"}, "Ada"), ({"type": "edit", "args": {"to": "Bob"}}, "Bob")],
)
def test_an_approved_draft_is_sent_once_as_it_was_edited(
    mail: Any, sent: list[dict[str, str]], answer: Any, to: str
) -> None:
    (stop,) = mail.invoke(ASKED, THREAD)["__interrupt__"]
    state = mail.invoke(Command(resume=answer), THREAD)
    assert sent == [{**stop.value["draft"], "to": to}]
    assert [message.type for message in state["messages"]] == ["human", "ai", "tool", "ai"]
    assert "__interrupt__" not in state


@pytest.mark.parametrize("answer", ["reject", {"type": "reject", "reason": "too long"}])
def test_a_rejected_draft_is_not_sent_and_the_model_reads_why(
    mail: Any, sent: list[dict[str, str]], answer: Any
) -> None:
    mail.invoke(ASKED, THREAD)
    *_, told, last = mail.invoke(Command(resume=answer), THREAD)["messages"]
    assert sent == []
    assert isinstance(told, ToolMessage)
    assert told.status == "error"
    assert ("too long" in told.text) == (answer != "reject")
    assert "Not sent" in last.text


def test_an_invalid_answer_can_be_given_again(mail: Any, sent: list[dict[str, str]]) -> None:
    mail.invoke(ASKED, THREAD)
    with pytest.raises(ValidationError, match="'approve', 'edit' or 'reject'"):
        mail.invoke(Command(resume="perhaps"), THREAD)
    mail.invoke(Command(resume="approve"), THREAD)
    assert len(sent) == 1


def test_several_drafts_are_reviewed_at_once() -> None:
    calls = [tool_call(name="send_mail", args={"to": name}, id=name) for name in ("Ada", "Bob")]
    sends = drafts({"messages": [AIMessage("", tool_calls=calls)]})
    assert [send.arg["args"]["to"] for send in sends if not isinstance(send, str)] == ["Ada", "Bob"]
    assert drafts({"messages": [AIMessage("done")]}) == "__end__"


def test_an_incomplete_draft_goes_back_to_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approval, "interrupt", lambda *_, **__: approval.Decision(type="approve"))
    (told,) = review(tool_call(name="send_mail", args={"to": "Ada"}, id="1"))["messages"]
    assert isinstance(told, ToolMessage)
    assert told.status == "error"
