"""Send a mail with your approval: the model drafts it as a tool call; you approve, edit or reject it.

Answer the question with `approve`, with `reject`, or with JSON: {"type": "edit", "args": {"to": "ada@example.com"}} or
{"type": "reject", "reason": "too long"}.
"""

from typing import Any, Literal

from langchain_core.messages import AIMessage, AnyMessage, SystemMessage, ToolCall, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Send, interrupt
from pydantic import BaseModel, model_validator

from streamserve import Chain
from streamserve.models import chat_model

SYSTEM = "You send mails for the user with your tool. Afterwards say in one sentence what was done, and what was not."


class Decision(BaseModel):
    """A person's decision on a draft."""

    type: Literal["approve", "edit", "reject"]
    args: dict[str, str] = {}
    reason: str = "no reason given"

    @model_validator(mode="before")
    @classmethod
    def read_word(cls, answer: Any) -> Any:
        """Read a single word as the type."""
        return {"type": answer} if isinstance(answer, str) else answer


@tool
def send_mail(to: str, subject: str, text: str) -> str:
    """Send a mail."""
    return f"Sent to {to}: “{subject}”, {len(text.split())} words"  # put your mail server here


send_mail.handle_validation_error = True  # an incomplete draft goes back to the model


def conversation(state: MessagesState) -> list[AnyMessage]:
    """Return the model's input."""
    return [SystemMessage(SYSTEM), *state["messages"]]


def as_update(message: AnyMessage) -> MessagesState:
    """Return the model's message as an update of the state."""
    return {"messages": [message]}


def drafts(state: MessagesState) -> list[Send] | str:
    """Return one review for each drafted mail, all in parallel, or the end without a draft."""
    last = state["messages"][-1]
    calls = last.tool_calls if isinstance(last, AIMessage) else []
    return [Send("review", call) for call in calls] or END


def review(draft: ToolCall) -> MessagesState:
    """Ask a person, then send. After the answer the node runs again from its top, so it sends after the question."""
    question = {"question": "Send this mail?", "draft": draft["args"], "choices": ["approve", "reject"]}
    decision = interrupt(question, response_schema=Decision)
    if decision.type == "reject":
        told = ToolMessage(f"Not sent: {decision.reason}", tool_call_id=draft["id"], name=draft["name"], status="error")
    else:
        told = send_mail.invoke({**draft, "args": {**draft["args"], **decision.args}})
    return {"messages": [told]}


graph = (
    StateGraph(MessagesState)
    .add_node("assistant", RunnableLambda(conversation) | chat_model().bind_tools([send_mail]) | as_update)
    .add_node("review", RunnableLambda(review))
    .add_edge(START, "assistant")
    .add_conditional_edges("assistant", drafts, ["review", END])
    .add_edge("review", "assistant")
    .compile(name="approval")
)

chain = Chain(
    runnable=graph,
    examples=[{"messages": [{"type": "human", "content": "Send a mail to Ada about lunch on Friday."}]}],
)
