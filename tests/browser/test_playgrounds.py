"""Tests of LangServe's playgrounds in a real browser, on our server."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from langchain_core.output_parsers import StrOutputParser
from playwright.sync_api import Locator, Page, expect

from chains import chat, joke
from streamserve.catalog.registry import Registry, discover
from tests.browser.pages import Gate, GatedModel, Server, Visit, instead_of_model, registered, registry_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince211"),  # raised by langserve
    pytest.mark.filterwarnings("ignore:astream_log is deprecated"),  # the playgrounds call nothing else
]


@pytest.fixture
def server(gate: Gate) -> Iterator[Server]:
    model = GatedModel(gate=gate, tokens=["Why", " so", " many", " bugs?"])
    registry = registry_of(
        registered("chat", instead_of_model(chat.chain, chat.prompt | model)),
        registered("joke", instead_of_model(joke.chain, joke.prompt | model | StrOutputParser())),
    )
    with Server(registry, gate) as server:
        yield server


def test_the_default_playground_shows_tokens_as_they_come(visit: Visit, server: Server, gate: Gate) -> None:
    page = visit.page
    page.goto(f"{server.url}/joke/playground/")
    expect(page.get_by_label("Topic")).to_have_value("a programmer")
    page.get_by_role("button", name="Start").click()
    gate.open(2)
    expect(page.get_by_text("Why so", exact=True)).to_be_visible()
    assert not gate.closed.is_set()
    gate.open(2)
    expect(page.get_by_text("Why so many bugs?", exact=True).first).to_be_visible()
    expect(page.get_by_role("button", name="Start")).to_be_enabled()
    visit.assert_clean()


def test_stop_in_the_default_playground_ends_the_run(visit: Visit, server: Server, gate: Gate) -> None:
    page = visit.page
    page.goto(f"{server.url}/joke/playground/")
    page.get_by_role("button", name="Start").click()
    gate.open()
    expect(page.get_by_text("Why", exact=True)).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    assert gate.closed.wait(10)
    expect(page.get_by_role("button", name="Start")).to_be_enabled()
    expect(page.get_by_text("Why", exact=True)).to_be_visible()
    visit.assert_clean()


def test_the_chat_playground_shows_tokens_as_they_come(visit: Visit, server: Server, gate: Gate) -> None:
    send_to_chat(visit.page, server)
    gate.open(2)
    expect(bubble(visit.page, "Why so")).to_be_visible()
    assert not gate.closed.is_set()
    gate.open(2)
    expect(bubble(visit.page, "Why so many bugs?")).to_be_visible()
    visit.assert_clean()


def test_leaving_the_chat_playground_ends_the_run(visit: Visit, server: Server, gate: Gate) -> None:
    # LangServe's chat playground has no Stop: its reader stops by leaving.
    send_to_chat(visit.page, server)
    gate.open()
    expect(bubble(visit.page, "Why")).to_be_visible()
    visit.page.goto("about:blank")
    assert gate.closed.wait(10)


def send_to_chat(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/chat/playground/", wait_until="networkidle")  # it ignores input before its schemas
    page.get_by_placeholder("Send a message").fill("Hello")
    page.locator("button:has(svg)").last.click()


def bubble(page: Page, text: str) -> Locator:
    """Return a message of the chat playground, which shows each in a text field."""
    return page.get_by_role("textbox").filter(has_text=re.compile(f"^{re.escape(text)}$"))


@pytest.fixture(scope="module")
def every_chain() -> Registry:
    return discover("chains").require_whole()


@pytest.mark.parametrize("name", sorted(discover("chains").chains))
def test_every_playground_opens_with_the_example_and_answers(visit: Visit, every_chain: Registry, name: str) -> None:
    page = visit.page
    with Server(every_chain) as server:
        if name == "chat":
            send_to_chat(page, server)
        else:
            page.goto(f"{server.url}/{name}/playground/")
            page.get_by_role("button", name="Start").click()
        expect(page.get_by_text("OPENAI_API_KEY").first).to_be_attached()
        visit.assert_clean()
