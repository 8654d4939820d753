"""The story: a scene, a stop for the reader's choice, the next scene, and an end."""

from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import ValidationError

from chains.story import FALLBACK, LAST, MAX_CHOICE, NEXT, ROUNDS, as_choice, chain, graph, scene_input

THREAD: Any = {"configurable": {"thread_id": "reader"}}
PREMISE = chain.examples[0]


@pytest.fixture
def story() -> Any:
    return graph.copy({"checkpointer": InMemorySaver()})


def test_a_story_stops_after_each_scene_and_ends_at_the_last(story: Any) -> None:
    state = story.invoke(PREMISE, THREAD)
    for number in range(1, ROUNDS + 1):
        (stop,) = state["__interrupt__"]
        assert stop.value["scene"] == state["messages"][-1].text
        assert stop.value["choices"]
        assert len(state["messages"]) == number
        state = story.invoke(Command(resume="1"), THREAD)
    assert "__interrupt__" not in state
    assert len(state["messages"]) == ROUNDS + 1
    assert len(state["chosen"]) == ROUNDS


@pytest.mark.parametrize("given", [{}, {"premise": ""}])
def test_the_input_schema_refuses_a_story_without_a_premise(given: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="premise"):
        chain.build().get_input_schema().model_validate(given)


async def test_scenes_stream_token_by_token_around_the_choice(story: Any) -> None:
    for given in (PREMISE, Command(resume="2")):
        chunks = [chunk async for chunk, _ in story.astream(given, THREAD, stream_mode="messages")]
        assert len(chunks) > 5
        assert all(isinstance(chunk, AIMessageChunk) for chunk in chunks)


def test_the_numbered_lines_of_a_scene_are_its_choices(story: Any) -> None:
    (stop,) = story.invoke(PREMISE, THREAD)["__interrupt__"]
    choices = stop.value["choices"]
    assert choices != FALLBACK
    assert all(f"{number}. {choice}" in stop.value["scene"] for number, choice in enumerate(choices, 1))
    state = story.invoke(Command(resume=2), THREAD)
    assert state["chosen"] == [choices[1]]


@pytest.mark.parametrize(
    ("answer", "choice"),
    [
        ("1", "left"),
        (2, "right"),
        (" 2 ", "right"),
        ("3", "3"),
        ("I sing", "I sing"),
        ("", "left"),
        ("9" * 5000, "9" * MAX_CHOICE),
        ({"a": 1}, "{'a': 1}"),
    ],
)
def test_a_choice_is_a_number_or_own_words(answer: object, choice: str) -> None:
    assert as_choice(answer, ["left", "right"]) == choice


def test_the_model_reads_earlier_scenes_and_choices(story: Any) -> None:
    scene = story.invoke(PREMISE, THREAD)["messages"][-1].text
    state = story.invoke(Command(resume="I sing"), THREAD)
    told = scene_input({**state, "messages": state["messages"][:1]})
    assert told["story"] == f"{scene}\nThe reader: I sing"
    assert told["rule"] == NEXT
    assert scene_input({**PREMISE, "messages": [], "chosen": []})["story"] == "nothing yet"


def test_the_last_scene_is_asked_to_end_the_story(story: Any) -> None:
    state = story.invoke(PREMISE, THREAD)
    for _ in range(ROUNDS):
        state = story.invoke(Command(resume="1"), THREAD)
    assert scene_input({**state, "messages": state["messages"][:ROUNDS]})["rule"] == LAST
