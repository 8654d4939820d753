"""The research agent: calls tools, reads their results, answers; tokens stream as messages."""

from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langgraph.errors import GraphRecursionError
from langgraph.graph import StateGraph

from chains import research_agent
from chains.research_agent import calculator, graph, search_docs


def asked(question: str) -> dict[str, Any]:
    return {"messages": [HumanMessage(question)]}


def test_a_calculation_goes_through_the_calculator() -> None:
    _question, call, result, answer = graph.invoke(asked("What is 17 * 24?"))["messages"]
    assert [made["name"] for made in call.tool_calls] == ["calculator"]
    assert isinstance(result, ToolMessage)
    assert result.content == "408"
    assert "408" in answer.text


def test_a_question_about_the_documents_searches_them(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Document("A chain module declares.", metadata={"source": "docs/chains.md"})
    monkeypatch.setattr(type(research_agent.documents), "search", lambda *_: [found])
    messages = graph.invoke(asked("Search the docs: what is a chain module?"))["messages"]
    assert messages[2].name == "search_docs"
    assert messages[2].content == "docs/chains.md: A chain module declares."


async def test_the_tokens_of_the_answer_stream() -> None:
    chunks = [chunk async for chunk, _ in graph.astream(asked("What is 17 * 24?"), stream_mode="messages")]
    tokens = [chunk for chunk in chunks if isinstance(chunk, AIMessageChunk) and chunk.text]
    assert len(tokens) > 5
    assert "408" in "".join(token.text for token in tokens)


def test_a_refused_calculation_is_an_answer_to_the_model() -> None:
    *_, result, answer = graph.invoke(asked("What is 1 / 0?"))["messages"]
    assert result.status == "error"
    assert "division by zero" in result.content
    assert answer.text


def test_invalid_arguments_are_an_answer_to_the_model() -> None:
    call = {"name": "calculator", "args": {}, "id": "1", "type": "tool_call"}
    (result,) = _tools_alone().invoke({"messages": [AIMessage("", tool_calls=[call])]})["messages"][1:]
    assert result.status == "error"
    assert "expression" in result.content


def test_a_bug_in_a_tool_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> list[Document]:
        raise RuntimeError("a bug")

    monkeypatch.setattr(type(research_agent.documents), "search", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        graph.invoke(asked("Search the docs for streaming"))


def test_an_agent_that_never_answers_is_stopped() -> None:
    assert graph.config is not None
    assert graph.config["recursion_limit"] == research_agent.MAX_STEPS
    with pytest.raises(GraphRecursionError):
        graph.invoke(asked("What is 17 * 24?"), {"recursion_limit": 2})


def test_the_tools_answer_in_text() -> None:
    assert calculator.invoke({"expression": "2 ** 10"}) == "1024"
    assert search_docs.invoke({"query": "xyzzyplugh"}) == "Nothing found."


def _tools_alone() -> Any:
    only = StateGraph(research_agent.MessagesState).add_node("tools", graph.nodes["tools"].bound)
    return only.add_edge("__start__", "tools").compile()
