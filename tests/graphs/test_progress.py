"""The recovery of a graph's run from its checkpoints after its owner's death."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from streamserve.graphs.graph import INTERRUPT
from streamserve.graphs.modes import astream
from streamserve.graphs.progress import StoppedGraph, at_latest_checkpoint, progress_of, with_run_id

THREAD: Any = {"configurable": {"thread_id": "t"}}
RUN: Any = with_run_id(THREAD, "r")
ran: list[str] = []


class State(TypedDict, total=False):
    text: str
    answer: str


class Died(BaseException):
    """The exception that stands for a worker's death here."""


def first(_state: State) -> State:
    ran.append("first")
    return {"text": "first"}


def second(_state: State) -> State:
    ran.append("second")
    if "dies" in _state.get("answer", ""):
        raise Died
    return {"text": "second"}


def ask(_state: State) -> State:
    ran.append("ask")
    return {"answer": interrupt("sure?")}


def graph(*steps: Any, **compiling: Any) -> Any:
    ran.clear()
    return (
        StateGraph(State).add_sequence(steps).add_edge(START, steps[0].__name__).compile(InMemorySaver(), **compiling)
    )


async def output_of(found: Any, arguments: Any = {}) -> tuple[list[Any], Any]:  # noqa: B006 - not changed
    outputs: list[Any] = []
    chunks = [chunk async for chunk in astream(found, None, at_latest_checkpoint(RUN), arguments, outputs.append)]
    return chunks, outputs[0]


async def test_a_run_without_a_checkpoint_starts_again() -> None:
    made = graph(first, second)
    assert await progress_of(made, THREAD, "r", {}) is None


async def test_checkpoints_of_other_runs_on_the_thread_do_not_count() -> None:
    made = graph(first, second)
    await made.ainvoke({"text": ""}, with_run_id(THREAD, "earlier"))
    assert await progress_of(made, THREAD, "r", {}) is None


async def test_finished_steps_do_not_run_again() -> None:
    made = graph(first, second)
    with pytest.raises(Died):
        await made.ainvoke({"text": "", "answer": "dies"}, RUN, durability="sync")
    found = await progress_of(made, THREAD, "r", {})
    assert found is made
    await made.aupdate_state(THREAD, {"answer": ""})
    assert await progress_of(made, THREAD, "r", {}) is made
    assert (await output_of(made))[1] == {"text": "second", "answer": ""}
    assert ran == ["first", "second", "second"]


async def test_a_complete_run_gives_its_output_and_runs_no_step() -> None:
    made = graph(first, second)
    await made.ainvoke({"text": ""}, RUN)
    found = await progress_of(made, THREAD, "r", {})
    assert (await output_of(found))[1] == {"text": "second"}
    assert ran == ["first", "second"]


@pytest.mark.parametrize(
    ("compiled", "breakpoints"),
    [
        ({"interrupt_before": ["second"]}, {}),
        ({"interrupt_after": ["first"]}, {}),
        ({"interrupt_before": "*"}, {"interrupt_before": ["second"]}),
        ({}, {"interrupt_before": ["second"]}),
        ({}, {"interrupt_after": "*"}),
    ],
)
async def test_recovery_does_not_pass_a_breakpoint(compiled: Any, breakpoints: Any) -> None:
    made = graph(first, second, **compiled)
    await made.ainvoke({"text": ""}, RUN, **breakpoints)
    found = await progress_of(made, THREAD, "r", breakpoints)
    assert isinstance(found, StoppedGraph)
    assert await output_of(found) == ([{INTERRUPT: []}], {"text": "first"})
    assert ran == ["first"]


async def test_recovery_passes_a_breakpoint_that_was_passed_before() -> None:
    made = graph(first, second, interrupt_before=["second"])
    await made.ainvoke({"text": ""}, with_run_id(THREAD, "earlier"))
    assert await progress_of(made, THREAD, "r", {}) is None
    assert await made.ainvoke(None, RUN) == {"text": "second"}


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_a_question_is_asked_again_without_its_step(version: Literal["v1", "v2"]) -> None:
    made = graph(first, ask)
    await made.ainvoke({"text": ""}, RUN)
    found = await progress_of(made, THREAD, "r", {})
    chunks, output = await output_of(found, {"version": version})
    (question,) = output.interrupts if version == "v2" else output[INTERRUPT]
    assert (question.value, len(chunks)) == ("sure?", 1)
    assert ran == ["first", "ask"]


async def test_an_answer_without_a_checkpoint_is_given_again() -> None:
    made = graph(ask, second)
    await made.ainvoke({"text": ""}, with_run_id(THREAD, "earlier"))
    assert await progress_of(made, THREAD, "r", {}) is None
    assert (await made.ainvoke(Command(resume="yes"), RUN))["answer"] == "yes"
    assert await progress_of(made, THREAD, "r", {}) is made
