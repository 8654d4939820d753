"""Tests that a reader answers the questions of a graph on the home page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from playwright.sync_api import Locator, expect
from typing_extensions import TypedDict

from chains import approval, story
from streamserve import Chain
from tests.browser.pages import Server, Visit, registered, registry_of

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince211")  # raised by langserve

WAITING = "Waiting for your answer"


class Trip(TypedDict, total=False):
    """The answers."""

    where: Any
    when: Any


def where(_state: Trip) -> Trip:
    """Ask in plain text."""
    return {"where": interrupt("Where to?")}


def when(_state: Trip) -> Trip:
    """Ask with choices that are not text."""
    return {"when": interrupt({"question": "When?", "choices": [{"day": 1}, {"day": 2}]})}


def trip() -> Chain:
    """Return a graph that asks two questions at once."""
    builder = StateGraph(Trip).add_node("ask_where", where).add_node("ask_when", when)
    return Chain(runnable=builder.add_edge(START, "ask_where").add_edge(START, "ask_when").compile(), examples=[{}])


@pytest.fixture
def server() -> Iterator[Server]:
    chains = {"story": story.chain, "approval": approval.chain, "trip": trip()}
    with Server(registry_of(*(registered(name, chain) for name, chain in chains.items()))) as server:
        yield server


@pytest.fixture
def at_home(visit: Visit, server: Server) -> Visit:
    visit.page.goto(f"{server.url}/")
    return visit


class Panel:
    """The panel of one chain."""

    def __init__(self, visit: Visit, chain: str) -> None:
        form: Locator = visit.page.locator(f"form[data-chain={chain}]")
        self.run = form.get_by_role("button", name="Run")
        self.state = form.get_by_role("status")
        self.output = form.get_by_role("log")
        self.question = form.get_by_role("group", name=f"Question of {chain}")
        self.choices = self.question.locator(".actions button")
        self.fields = self.question.get_by_role("textbox")
        self.answer = self.question.get_by_role("button", name="Answer", exact=True)


def test_a_story_is_played_to_its_end(at_home: Visit) -> None:
    panel = Panel(at_home, "story")
    panel.run.click()
    expect(panel.state).to_contain_text(WAITING)
    scene = panel.output.inner_text()
    first = panel.choices.first.inner_text()
    assert f"1. {first}" in scene
    expect(panel.question).not_to_contain_text("What do you do?")  # the page shows the scene once
    panel.choices.first.click()
    expect(panel.output).to_contain_text(f"you answered{first}")
    expect(panel.state).to_contain_text(WAITING)
    assert panel.output.inner_text().startswith(scene)
    panel.fields.fill("I sing")
    panel.fields.press("Enter")
    expect(panel.output).to_contain_text("I sing")
    expect(panel.state).to_contain_text(WAITING)
    panel.fields.fill("1")
    panel.answer.click()
    expect(panel.state).to_contain_text("Done in")
    expect(panel.question).to_be_hidden()
    expect(panel.output).to_contain_text("The end.")
    at_home.assert_clean()


def test_a_question_is_still_there_after_a_reload(at_home: Visit) -> None:
    panel = Panel(at_home, "story")
    panel.run.click()
    panel.choices.first.click()
    expect(panel.output).to_contain_text("you answered")
    expect(panel.state).to_contain_text(WAITING)
    at_home.page.reload()
    expect(panel.state).to_contain_text(WAITING)
    expect(panel.output).not_to_contain_text("you answered")  # only the last run is shown again
    panel.choices.last.click()
    expect(panel.state).to_contain_text(WAITING)
    panel.choices.first.click()
    expect(panel.state).to_contain_text("Done")
    at_home.assert_clean()


def test_a_draft_is_shown_and_edited_with_json(at_home: Visit) -> None:
    panel = Panel(at_home, "approval")
    panel.run.click()
    expect(panel.question).to_contain_text("Send this mail?")
    expect(panel.question).to_contain_text('"to": "Ada"')
    expect(panel.choices).to_have_text(["approve", "reject"])
    panel.fields.fill('{"type": "edit", "args": {"to": "Bob"}}')
    panel.answer.click()
    expect(panel.output).to_contain_text("Sent to Bob")
    expect(panel.state).to_contain_text("Done in")


def test_an_answer_that_does_not_fit_is_refused_and_given_again(at_home: Visit) -> None:
    panel = Panel(at_home, "approval")
    panel.run.click()
    panel.fields.fill("perhaps")
    panel.answer.click()
    expect(panel.state).to_contain_text("Error: body.input.resume")
    panel.choices.first.click()
    expect(panel.output).to_contain_text("Sent to Ada")
    expect(panel.state).to_contain_text("Done in")


def test_two_questions_are_answered_together_or_one_by_one(at_home: Visit) -> None:
    panel = Panel(at_home, "trip")
    panel.run.click()
    expect(panel.fields).to_have_count(2)
    expect(panel.choices).to_have_text(['{"day":1}', '{"day":2}'])
    panel.choices.last.click()
    panel.question.get_by_label("Where to?").fill("Basel")
    panel.answer.click()
    expect(panel.state).to_contain_text("Done in")
    expect(panel.output).to_contain_text('"day": 2')
    expect(panel.output).to_contain_text("Basel")
    panel.run.click()
    panel.question.get_by_label("Where to?").fill("Bern")
    panel.answer.click()
    expect(panel.fields).to_have_count(1)
    panel.choices.first.click()
    expect(panel.output).to_contain_text('"day": 1')
    expect(panel.state).to_contain_text("Done in")
    at_home.assert_clean()


def test_a_new_run_forgets_the_question(at_home: Visit) -> None:
    panel = Panel(at_home, "trip")
    panel.run.click()
    expect(panel.fields).to_have_count(2)
    panel.run.click()
    expect(panel.fields).to_have_count(2)
    expect(panel.output).not_to_contain_text("you answered")
