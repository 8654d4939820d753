"""The questions in what a graph yields, and the input with which a node resumes the graph."""

from types import SimpleNamespace
from typing import Any

import pytest
from langgraph.errors import GraphInterrupt
from langgraph.types import Command, GraphOutput, Interrupt
from streamserve_sdk.graphs import questions, snapshots
from streamserve_sdk.graphs.questions import Questions

ONE, TWO = Interrupt("one?", id="1"), Interrupt("two?", id="2")


def task(answer: Any = None, **marks: Any) -> Any:
    scratchpad = SimpleNamespace(get_null_resume=lambda consume: answer)
    own = {"__pregel_scratchpad": scratchpad, "__pregel_resuming": True, "checkpoint_ns": "n", "thread_id": "t"}
    return {"configurable": {**own, **marks}}


def state(*interrupts: Any, next: tuple[str, ...] = ("ask",)) -> Any:
    return snapshots.empty({})._replace(next=next, interrupts=interrupts)


def asked(read: Any) -> Any:
    found = Questions()
    read(found)
    with pytest.raises(GraphInterrupt) as raised:
        found.ask()
    return raised.value.args[0]


@pytest.mark.parametrize(
    "chunk",
    [
        {"text": "x", "__interrupt__": [ONE]},
        {"__interrupt__": (ONE,)},
        {"__interrupt__": [{"value": "one?", "id": "1", "response_schema": None}]},
        ("updates", {"__interrupt__": (ONE,)}),
        ((), "updates", {"__interrupt__": (ONE,)}),
        {"type": "updates", "ns": (), "data": {"__interrupt__": (ONE,)}},
    ],
)
def test_a_chunk_of_any_mode_has_its_questions(chunk: Any) -> None:
    assert asked(lambda found: found.read(chunk)) == (ONE,)


@pytest.mark.parametrize(
    "output",
    [
        {"__interrupt__": [ONE, TWO]},
        GraphOutput({}, (ONE, TWO)),
        [{"__interrupt__": (ONE,)}, {"__interrupt__": (TWO,)}],
    ],
)
def test_an_output_has_each_question_once(output: Any) -> None:
    assert asked(lambda found: [found.read_output(output), found.read_output(output)]) == (ONE, TWO)


@pytest.mark.parametrize(
    "output", ["text", None, {}, [], [1], (), {"__interrupt__": ()}, {"__interrupt__": "look-alike"}]
)
def test_any_other_output_asks_nothing(output: Any) -> None:
    found = Questions()
    found.read_output(output)
    found.ask()


def test_only_a_resumed_node_with_a_thread_may_resume() -> None:
    assert questions.resumed_thread(task()) == {"configurable": {"thread_id": "t"}}
    assert questions.resumed_thread(task(__pregel_resuming=False)) is None
    assert questions.resumed_thread(task(thread_id=None)) is None
    assert questions.resumed_thread({}) is None
    assert questions.resumed_thread({"configurable": {"thread_id": "t", "__pregel_resuming": True}}) is None


def test_a_thread_that_does_not_wait_gets_the_nodes_input() -> None:
    assert questions.resumed("input", task("answer"), state(next=())) == "input"
    assert questions.resumed("input", task("answer"), state()) is None


def test_answers_belong_to_the_waiting_questions() -> None:
    by_id = task(__pregel_resume_map={"1": "a", "other": "b"})
    assert questions.resumed(None, by_id, state(ONE, TWO)) == Command(resume={"1": "a"})
    assert questions.resumed(None, task("a"), state(ONE)) == Command(resume={"1": "a"})
    assert questions.resumed(None, task(False), state(ONE)) == Command(resume={"1": False})
    assert questions.resumed(None, task("a"), state(ONE, TWO)) == Command(resume="a")


@pytest.mark.parametrize("config", [task(), task("a", __pregel_resume_map={"other": "b"})], ids=["none", "others"])
def test_a_question_without_an_answer_is_asked_again(config: Any) -> None:
    with pytest.raises(GraphInterrupt) as raised:
        questions.resumed(None, config, state(ONE))
    assert raised.value.args[0] == (ONE,)
