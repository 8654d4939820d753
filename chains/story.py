"""Play a story: the model writes a scene, you choose what happens next, and after three choices it ends."""

import re
from operator import add
from typing import Annotated, Any

from langchain_core.messages import BaseMessage
from langchain_core.prompts import ChatPromptTemplate
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt
from pydantic import BaseModel, Field

from streamserve import Chain
from streamserve.models import chat_model

ROUNDS = 3
MAX_CHOICE = 500  # characters of a reader's own words that go into the prompt
SYSTEM = "You tell an interactive story in short, vivid scenes of at most 80 words."
NEXT = "End it with two or three numbered choices for the reader, each on a line of its own."
LAST = "It is the last one: end the story and offer no choices."
FALLBACK = ["Go on", "Turn back"]  # for a model that offers no choices


class StoryInput(BaseModel):
    premise: str = Field(description="Subject of the story.", min_length=1, examples=["a lighthouse"])


# Scenes are messages, so that their tokens stream. Choices are not, because they would stream as well.
class StoryState(MessagesState):
    premise: str
    chosen: Annotated[list[str], add]


prompt = ChatPromptTemplate.from_messages(
    [
        ("system", SYSTEM),
        ("human", "So far:\n{story}\n\n{rule}\nTask: write scene {number} of a story about “{premise}”."),
    ]
)


def scene_input(state: StoryState) -> dict[str, Any]:
    """Return the prompt's variables: the story so far, and the rule for the next scene."""
    chosen = state.get("chosen", [])
    turns = zip(state.get("messages", []), chosen, strict=True)
    story = "\n".join(f"{scene.text}\nThe reader: {choice}" for scene, choice in turns)
    return {
        "premise": state["premise"],
        "story": story or "nothing yet",
        "number": len(chosen) + 1,
        "rule": LAST if is_told(state) else NEXT,
    }


def is_told(state: StoryState) -> bool:
    """Return whether the reader has made all choices."""
    return len(state.get("chosen", [])) >= ROUNDS


def add_scene(scene: BaseMessage) -> dict[str, Any]:
    """Return the model's scene as an update of the state."""
    return {"messages": [scene]}


def ask_reader(state: StoryState) -> dict[str, Any]:
    """Ask the reader. After the answer the node runs again from its top, so it calls no model."""
    scene = state["messages"][-1].text
    choices = re.findall(r"^\W*\d+[.)]\W*(\w.*)$", scene, re.MULTILINE) or FALLBACK
    answer = interrupt({"scene": scene, "choices": choices})
    return {"chosen": [as_choice(answer, choices)]}


def as_choice(answer: object, choices: list[str]) -> str:
    """Return the choice for an answer, which is its number, from 1, or the reader's own words."""
    text = str(answer).strip()
    by_number = {str(number): choice for number, choice in enumerate(choices, 1)}
    return by_number.get(text) or text[:MAX_CHOICE] or choices[0]


graph = (
    StateGraph(StoryState, input_schema=StoryInput)
    .add_node("write_scene", scene_input | prompt | chat_model() | add_scene)
    .add_node("ask_reader", ask_reader)
    .add_edge(START, "write_scene")
    .add_conditional_edges("write_scene", is_told, {True: END, False: "ask_reader"})
    .add_edge("ask_reader", "write_scene")
    .compile(name="story")
)

chain = Chain(runnable=graph, examples=[{"premise": "a lighthouse keeper who finds a door in the rock"}])
